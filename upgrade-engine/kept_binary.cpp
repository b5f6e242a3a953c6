// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/kept_binary.hpp"

#include "common/as_user.hpp"
#include "common/read_file.hpp"
#include "upgrade-engine/elf.hpp"

#include <elf.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

namespace qhup::upgrade {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxLibraryBytes = 512ULL << 20U; // QEMU itself is the largest
constexpr std::uint64_t kMaxFirmwareBytes = 8ULL << 20U;  // of one file: no firmware of UEFI
constexpr std::uint64_t kMaxTreeBytes = 1ULL << 30U;
constexpr std::chrono::seconds kFirstStart{20};
constexpr const char* kComplete = "release.toml";

Failure cannot_keep(const KeepRequest& request, const std::string& why) {
    return make_failure(
        Errc::binary_refused, "The binary " + request.build_id + " cannot be kept: " + why
    );
}

/// Whether only root, or we, can have made what is in this file.
bool is_trusted(const struct stat& info) {
    return S_ISREG(info.st_mode) && is_ours(info.st_uid) &&
           (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

std::string load_text(const std::string& path) {
    const Result<std::string> text = read_file(path);
    return text.has_value() ? *text : std::string();
}

/// A tree that is being made, in a folder that is removed unless it is finished.
class Tree {
public:
    Tree(const KeepRequest& request)
        : request_(request), folder_(request.root + "/.new-" + request.build_id) {
        std::error_code ignored;
        fs::remove_all(folder_, ignored);
    }
    Tree(const Tree&) = delete;
    Tree& operator=(const Tree&) = delete;
    ~Tree() {
        std::error_code ignored;
        fs::remove_all(folder_, ignored);
    }

    [[nodiscard]] const std::string& folder() const { return folder_; }

    /// Copies an open file to a name inside the tree.
    Result<void> copy(int fd, const std::string& name, std::uint64_t most) {
        struct stat info {};
        if (::fstat(fd, &info) != 0 || !is_trusted(info)) {
            return cannot_keep(
                request_, name + " does not belong to root, or others may write it."
            );
        }
        const auto size = static_cast<std::uint64_t>(info.st_size);
        if (size > most || size > kMaxTreeBytes - bytes_) {
            return cannot_keep(request_, name + " is too large.");
        }
        const fs::path target = fs::path(folder_) / name;
        std::error_code error;
        fs::create_directories(target.parent_path(), error);
        const UniqueFd out(
            ::open(target.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0755)
        );
        if (error || !out) {
            return cannot_keep(request_, "there is no room, or no permission, for " + name + ".");
        }
        loff_t offset = 0;
        while (static_cast<std::uint64_t>(offset) < size) {
            const std::size_t rest = size - static_cast<std::uint64_t>(offset);
            const ssize_t copied = ::copy_file_range(fd, &offset, out.get(), nullptr, rest, 0);
            if (copied <= 0 && !copy_slowly(fd, offset, out.get(), size)) {
                return cannot_keep(request_, name + " cannot be copied.");
            }
            if (copied <= 0) {
                break;
            }
        }
        ::fchmod(out.get(), 0755);
        bytes_ += size;
        return {};
    }

private:
    static bool copy_slowly(int in, loff_t offset, int out, std::uint64_t size) {
        std::string chunk(1U << 20U, '\0');
        while (static_cast<std::uint64_t>(offset) < size) {
            const ssize_t got = ::pread(in, chunk.data(), chunk.size(), offset);
            if (got <= 0 || ::write(out, chunk.data(), static_cast<std::size_t>(got)) != got) {
                return false;
            }
            offset += got;
        }
        return true;
    }

    const KeepRequest& request_;
    std::string folder_;
    std::uint64_t bytes_ = 0;
};

std::string proc_of(const KeepRequest& request) {
    return "/proc/" + std::to_string(request.pid);
}

/// The file as it is mapped, wherever its path leads now.
UniqueFd open_mapped(const KeepRequest& request, const MappedFile& file) {
    UniqueFd fd(
        ::open((proc_of(request) + "/map_files/" + file.range).c_str(), O_RDONLY | O_CLOEXEC)
    );
    if (fd || file.is_deleted) {
        return fd;
    }
    // why: without the capability for map_files the path must do, if it is still the same file.
    UniqueFd by_path(::open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    struct stat info {};
    const bool is_same = by_path && ::fstat(by_path.get(), &info) == 0 && info.st_ino == file.inode;
    return is_same ? std::move(by_path) : UniqueFd();
}

std::string load_all(int fd) {
    struct stat info {};
    if (::fstat(fd, &info) != 0 || static_cast<std::uint64_t>(info.st_size) > kMaxLibraryBytes) {
        return {};
    }
    std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
    const ssize_t got = ::pread(fd, bytes.data(), bytes.size(), 0);
    bytes.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
    return bytes;
}

bool is_library(const std::string& path) {
    return fs::path(path).filename().string().find(".so") != std::string::npos;
}

bool is_loader(const std::string& path) {
    return fs::path(path).filename().string().starts_with("ld-linux");
}

/// qemu: its modules are in a folder of their own: /usr/lib/x86_64-linux-gnu/qemu/hw-…so
bool is_module(const std::string& path) {
    return fs::path(path).parent_path().filename() == "qemu";
}

/// Modules are found by their place relative to the binary.
std::string module_name(const std::string& path, const fs::path& binary) {
    return ("bin" / fs::path(path).lexically_relative(binary.parent_path())).lexically_normal();
}

Result<void> keep_libraries(const KeepRequest& request, const fs::path& binary, Tree& tree) {
    bool has_loader = false;
    for (const MappedFile& file : parse_mapped_files(load_text(proc_of(request) + "/maps"))) {
        if (!is_library(file.path)) {
            continue;
        }
        const UniqueFd fd = open_mapped(request, file);
        if (!fd) {
            return cannot_keep(request, file.path + " was replaced, and cannot be reached.");
        }
        std::string name = fs::path(file.path).filename();
        if (is_loader(file.path)) {
            has_loader = true;
            name = "bin/ld.so";
        } else if (is_module(file.path)) {
            name = module_name(file.path, binary);
        } else {
            const std::string soname = find_soname(load_all(fd.get()));
            name =
                "lib/" + (soname.empty() || soname.find('/') != std::string::npos ? name : soname);
        }
        const Result<void> copied = tree.copy(fd.get(), name, kMaxLibraryBytes);
        if (copied.has_error()) {
            return copied;
        }
    }
    return has_loader ? Result<void>()
                      : cannot_keep(request, "it does not run with the loader of this system.");
}

/// What can be found of the module folder, besides what is mapped. Best effort.
void keep_more_modules(const fs::path& binary, Tree& tree) {
    for (const char* folder : {"../lib/x86_64-linux-gnu/qemu", "../lib/qemu"}) {
        std::error_code error;
        for (const auto& entry :
             fs::directory_iterator((binary.parent_path() / folder).lexically_normal(), error)) {
            const UniqueFd fd(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
            const std::string name = module_name(entry.path(), binary);
            if (fd && entry.path().extension() == ".so" &&
                !fs::exists(tree.folder() + "/" + name)) {
                ignore(tree.copy(fd.get(), name, kMaxLibraryBytes), "it may never be needed");
            }
        }
    }
}

std::vector<fs::path> firmware_folders(const KeepRequest& request, const fs::path& binary) {
    std::vector<fs::path> folders;
    const std::string words = load_text(proc_of(request) + "/cmdline");
    std::string before;
    for (std::size_t at = 0; at < words.size();) {
        const std::string word = words.c_str() + at;
        if (before == "-L" && word.starts_with('/')) {
            folders.emplace_back(word);
        }
        at += word.size() + 1;
        before = word;
    }
    const fs::path home = binary.parent_path();
    for (const char* place :
         {"../share/qemu", "../share/qemu-firmware", "pc-bios", "../share/seabios"}) {
        folders.push_back((home / place).lexically_normal());
    }
    folders.push_back((home / "../lib/ipxe/qemu").lexically_normal());
    return folders;
}

/// Best effort: a file that is missing shows when the new process is started, before any pause.
void keep_firmware(const KeepRequest& request, const fs::path& binary, Tree& tree) {
    for (const fs::path& folder : firmware_folders(request, binary)) {
        std::error_code error;
        fs::recursive_directory_iterator entry(folder, error);
        for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
            if (entry.depth() > 1) {
                entry.disable_recursion_pending();
            }
            const std::string name =
                "share/qemu/" + entry->path().lexically_relative(folder).string();
            if (fs::exists(tree.folder() + "/" + name)) {
                continue; // of a folder that comes before, as QEMU looks for it
            }
            const UniqueFd fd(::open(entry->path().c_str(), O_RDONLY | O_CLOEXEC));
            struct stat info {};
            const bool is_public = fd && ::fstat(fd.get(), &info) == 0 && S_ISREG(info.st_mode) &&
                                   (info.st_mode & S_IROTH) != 0;
            if (is_public) {
                ignore(tree.copy(fd.get(), name, kMaxFirmwareBytes), "it may never be needed");
            }
        }
    }
}

// Not a name that a release file can give.
constexpr std::string_view kKeptName = "kept/";

Release release_of(const std::string& folder, const std::string& build_id) {
    Release release;
    release.name = ReleaseName(std::string(kKeptName) + build_id);
    release.path = folder + "/bin/qemu";
    release.firmware = {folder + "/share/qemu"};
    return release;
}

/// Waits for a child; kills it at the deadline.
Result<int> wait_for(pid_t pid, std::chrono::seconds patience) {
    const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    pollfd entry{pidfd.get(), POLLIN, 0};
    const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(patience);
    const bool is_over = pidfd && ::poll(&entry, 1, static_cast<int>(milliseconds.count())) > 0;
    if (!is_over) {
        ::kill(pid, SIGKILL);
    }
    int status = 0;
    if (::waitpid(pid, &status, 0) != pid) {
        return make_system_failure(errno, "waiting for a process");
    }
    return status;
}

/// The copy must run: its machine is empty, and it is told to quit.
Result<void> start_once(const KeepRequest& request, const std::string& folder) {
    std::vector<std::string> words{folder + "/bin/ld.so"};
    for (std::string& word : loader_words(release_of(folder, request.build_id))) {
        words.push_back(std::move(word));
    }
    words.emplace_back("-L");
    words.push_back(folder + "/share/qemu");
    // why: without TCG, which needs memory that is written and executed; our unit has none of that.
    for (const char* word :
         {"-machine",
          "none",
          "-accel",
          "qtest",
          "-nodefaults",
          "-display",
          "none",
          "-monitor",
          "stdio"}) {
        words.emplace_back(word);
    }
    std::vector<char*> argv;
    for (std::string& word : words) {
        argv.push_back(word.data());
    }
    argv.push_back(nullptr);
    const std::string input = folder + "/check.in";
    const std::string output = folder + "/check.out";
    std::ofstream(input) << "quit\n";
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 0, input.c_str(), O_RDONLY, 0);
    ::posix_spawn_file_actions_addopen(
        &actions, 1, output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600
    );
    ::posix_spawn_file_actions_adddup2(&actions, 1, 2);
    std::array<char*, 1> environment{nullptr};
    pid_t pid = 0;
    int spawned = 0;
    const auto spawn = [&] {
        spawned = ::posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environment.data());
    };
    // why: it needs none of our rights to say that it runs.
    const Result<void> taken = run_as_user(::geteuid(), "trying a binary", spawn);
    ::posix_spawn_file_actions_destroy(&actions);
    if (taken.has_error() || spawned != 0) {
        return cannot_keep(request, "its copy cannot be started.");
    }
    const Result<int> status = wait_for(pid, kFirstStart);
    const std::string said = load_text(output).substr(0, 400);
    std::error_code ignored;
    fs::remove(input, ignored);
    fs::remove(output, ignored);
    if (status.has_error() || !WIFEXITED(*status) || WEXITSTATUS(*status) != 0) {
        Failure failure = cannot_keep(request, "its copy does not run.");
        failure.peer_text = said;
        return failure;
    }
    return {};
}

/// VMs of any user execute what is in this tree: it shall be nobody's who starts programs, not even
/// ours. Where we may not give it away it stays ours, and is trusted all the same.
void give_to_root(const std::string& folder) {
    if (!is_own_user_with_rights()) {
        return;
    }
    std::error_code ignored;
    // why: the folder last. own_kept() takes a tree whose folder is root's for done.
    for (const auto& entry : fs::recursive_directory_iterator(folder, ignored)) {
        (void)::lchown(entry.path().c_str(), 0, 0);
    }
    (void)::lchown(folder.c_str(), 0, 0);
}

bool is_build_id(std::string_view text) {
    return !text.empty() && text.size() <= 128 && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    });
}

/// Whether the file is the binary that QEMU says it runs.
bool has_build_id(int fd, const std::string& build_id) {
    const std::string bytes = load_all(fd);
    const std::optional<ElfHeader> header = parse_elf_header(bytes);
    if (!header) {
        return false;
    }
    return std::any_of(header->notes.begin(), header->notes.end(), [&](const ByteRange& range) {
        const bool is_inside =
            range.offset <= bytes.size() && range.size <= bytes.size() - range.offset;
        return is_inside &&
               find_build_id(std::string_view(bytes).substr(range.offset, range.size)) == build_id;
    });
}

} // namespace

std::vector<MappedFile> parse_mapped_files(std::string_view text) {
    std::vector<MappedFile> files;
    std::set<std::string, std::less<>> seen;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        // "7f01-7f02 r--p 00000000 fe:01 1234    /usr/lib/libc.so.6 (deleted)"
        std::array<std::string_view, 5> fields;
        std::size_t at = 0;
        for (std::string_view& field : fields) {
            const std::size_t space = std::min(line.find(' ', at), line.size());
            field = line.substr(at, space - at);
            at = std::min(line.find_first_not_of(' ', space), line.size());
        }
        MappedFile file;
        file.range = fields[0];
        file.path = line.substr(at);
        constexpr std::string_view kDeleted = " (deleted)";
        if (file.path.ends_with(kDeleted)) {
            file.is_deleted = true;
            file.path.resize(file.path.size() - kDeleted.size());
        }
        const std::string_view inode = fields[4];
        const auto parsed = std::from_chars(inode.data(), inode.data() + inode.size(), file.inode);
        const bool is_file = file.path.starts_with('/') && parsed.ec == std::errc{} &&
                             file.inode != 0 && file.range.find('/') == std::string::npos;
        if (is_file && seen.insert(file.path).second) {
            files.push_back(std::move(file));
        }
    }
    return files;
}

std::string find_soname(std::string_view bytes) {
    const auto read = [bytes](std::uint64_t offset, auto& into) {
        const bool is_inside = offset <= bytes.size() && sizeof(into) <= bytes.size() - offset;
        if (is_inside) {
            std::memcpy(&into, bytes.data() + offset, sizeof(into));
        }
        return is_inside;
    };
    Elf64_Ehdr header{};
    if (!read(0, header) || std::memcmp(&header.e_ident[0], ELFMAG, SELFMAG) != 0 ||
        header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_phentsize != sizeof(Elf64_Phdr)) {
        return {};
    }
    std::vector<Elf64_Phdr> segments(header.e_phnum);
    for (std::size_t i = 0; i < segments.size(); ++i) {
        if (!read(header.e_phoff + i * sizeof(Elf64_Phdr), segments[i])) {
            return {};
        }
    }
    const auto dynamic = std::find_if(segments.begin(), segments.end(), [](const Elf64_Phdr& one) {
        return one.p_type == PT_DYNAMIC;
    });
    if (dynamic == segments.end()) {
        return {};
    }
    std::uint64_t name = 0;
    std::uint64_t strings = 0;
    bool has_name = false;
    for (std::uint64_t at = 0; at + sizeof(Elf64_Dyn) <= dynamic->p_filesz;
         at += sizeof(Elf64_Dyn)) {
        Elf64_Dyn entry{};
        if (!read(dynamic->p_offset + at, entry) || entry.d_tag == DT_NULL) {
            break;
        }
        if (entry.d_tag == DT_SONAME) {
            name = entry.d_un.d_val;
            has_name = true;
        } else if (entry.d_tag == DT_STRTAB) {
            strings = entry.d_un.d_ptr;
        }
    }
    const auto load =
        std::find_if(segments.begin(), segments.end(), [strings](const Elf64_Phdr& one) {
            return one.p_type == PT_LOAD && strings >= one.p_vaddr &&
                   strings - one.p_vaddr < one.p_filesz;
        });
    if (!has_name || load == segments.end()) {
        return {};
    }
    const std::uint64_t offset = load->p_offset + (strings - load->p_vaddr) + name;
    if (offset >= bytes.size()) {
        return {};
    }
    const std::string_view rest = bytes.substr(offset, 256);
    return std::string(rest.substr(0, rest.find('\0')));
}

Result<void> keep_binary(const KeepRequest& request) {
    if (!is_build_id(request.build_id)) {
        return cannot_keep(request, "QEMU does not say which build it is.");
    }
    if (is_kept(request.root, request.build_id)) {
        return {};
    }
    std::error_code error;
    const fs::path binary = [&] {
        std::string path = fs::read_symlink(proc_of(request) + "/exe", error);
        constexpr std::string_view kDeleted = " (deleted)";
        path.resize(path.ends_with(kDeleted) ? path.size() - kDeleted.size() : path.size());
        return fs::path(path);
    }();
    const UniqueFd fd(::open((proc_of(request) + "/exe").c_str(), O_RDONLY | O_CLOEXEC));
    if (error || !fd) {
        return cannot_keep(request, "its process cannot be looked at.");
    }
    if (!has_build_id(fd.get(), request.build_id)) {
        return cannot_keep(request, "its process runs another file.");
    }
    fs::create_directories(request.root, error);
    fs::permissions(request.root, fs::perms(0711), error);
    Tree tree(request);
    const Result<void> copied = tree.copy(fd.get(), "bin/qemu", kMaxLibraryBytes);
    if (copied.has_error()) {
        return copied;
    }
    const Result<void> libraries = keep_libraries(request, binary, tree);
    if (libraries.has_error()) {
        return libraries;
    }
    keep_more_modules(binary, tree);
    keep_firmware(request, binary, tree);
    fs::create_directories(tree.folder() + "/share/qemu", error);
    const Result<void> started = start_once(request, tree.folder());
    if (started.has_error()) {
        return started;
    }
    std::ofstream(tree.folder() + "/" + kComplete)
        << "description = \"QEMU "
        << to_string(parse_qemu_version(request.version).value_or(QemuVersion{}))
        << ", kept by qhupd\"\n";
    // why: whatever our umask is, QEMU's user reads the libraries.
    fs::permissions(tree.folder(), fs::perms(0755), error);
    for (const auto& entry : fs::recursive_directory_iterator(tree.folder(), error)) {
        fs::permissions(entry.path(), fs::perms(0755), error);
    }
    give_to_root(tree.folder());
    const UniqueFd folder(::open(tree.folder().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ::syncfs(folder.get());
    fs::rename(tree.folder(), request.root + "/" + request.build_id, error);
    return error ? cannot_keep(request, "its tree cannot be named: " + error.message() + ".")
                 : Result<void>();
}

void own_kept(const std::string& root, const std::string& build_id) {
    const std::string folder = root + "/" + build_id;
    struct stat info {};
    if (is_build_id(build_id) && ::lstat(folder.c_str(), &info) == 0 && info.st_uid != 0) {
        give_to_root(folder);
    }
}

bool is_kept(const std::string& root, const std::string& build_id) {
    std::error_code error;
    return is_build_id(build_id) && fs::exists(root + "/" + build_id + "/" + kComplete, error);
}

std::vector<std::string> list_kept(const std::string& root) {
    std::vector<std::string> ids;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(root, error)) {
        const std::string name = entry.path().filename();
        if (is_kept(root, name)) {
            ids.push_back(name);
        }
    }
    std::sort(ids.begin(), ids.end());
    return ids;
}

Result<void> check_kept(const std::string& root, const std::string& build_id) {
    const std::string folder = root + "/" + build_id;
    for (const std::string& file : {folder + "/bin/qemu", folder + "/bin/ld.so"}) {
        const Result<void> trusted = check_trusted(file);
        std::error_code error;
        const bool is_there = fs::is_regular_file(file, error);
        if (trusted.has_error() || !is_there) {
            return make_failure(
                Errc::binary_refused,
                "The binary " + build_id + ", which is kept, cannot be used: " +
                    (is_there ? trusted.error().message : file + " is missing.")
            );
        }
    }
    return {};
}

Result<std::shared_ptr<const PinnedBinary>>
pin_kept(const std::string& root, const std::string& build_id) {
    if (!is_kept(root, build_id)) {
        return make_failure(Errc::binary_refused, "The binary " + build_id + " is not kept.");
    }
    const std::string folder = root + "/" + build_id;
    auto binary = pin_binary(release_of(folder, build_id));
    if (binary.has_error()) {
        return binary.error();
    }
    if ((*binary)->build_id != build_id) {
        return make_failure(Errc::binary_refused, "The tree " + folder + " has another binary.");
    }
    Release loader = release_of(folder, build_id);
    loader.path = folder + "/bin/ld.so";
    auto started_by = pin_binary(loader);
    if (started_by.has_error()) {
        return started_by.error();
    }
    const auto kept = std::make_shared<PinnedBinary>();
    kept->release = (*binary)->release;
    kept->fd = UniqueFd(::fcntl((*started_by)->fd.get(), F_DUPFD_CLOEXEC, 0));
    kept->sha256 = (*binary)->sha256;
    kept->build_id = build_id;
    kept->version = (*binary)->version;
    kept->device = (*started_by)->device;
    kept->inode = (*started_by)->inode;
    kept->size = (*started_by)->size;
    kept->mtime_ns = (*started_by)->mtime_ns;
    kept->ctime_ns = (*started_by)->ctime_ns;
    return std::shared_ptr<const PinnedBinary>(kept);
}

std::vector<std::string> loader_words(const Release& release) {
    if (!release.name.text().starts_with(kKeptName)) {
        return {};
    }
    const std::string folder = fs::path(release.path).parent_path().parent_path();
    return {"--library-path", folder + "/lib", "--argv0", "qemu-system-x86_64", release.path};
}

std::vector<std::string> kept_tail(const std::string& root, const std::string& build_id) {
    return release_tail(release_of(root + "/" + build_id, build_id));
}

void forget_kept(const std::string& root, const std::string& build_id) {
    std::error_code ignored;
    if (is_build_id(build_id)) {
        fs::remove_all(root + "/" + build_id, ignored);
    }
}

} // namespace qhup::upgrade
