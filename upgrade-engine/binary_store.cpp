// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/binary_store.hpp"

#include "common/as_user.hpp"
#include "upgrade-engine/elf.hpp"

#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <utility>

namespace qhup::upgrade {
namespace {

constexpr std::size_t kChunkBytes = 1U << 20U;
constexpr std::size_t kElfStartBytes = 1U << 16U;
constexpr std::uint64_t kMaxNoteBytes = 1U << 20U;
constexpr std::int64_t kMaxBinaryBytes = std::int64_t{2} << 30;

// qemu: vl.c, version(): the format string holds the number.
constexpr std::string_view kVersionMark = "QEMU emulator version ";
constexpr std::size_t kVersionBytes = 32;

Failure refuse(const Release& release, const std::string& what, int errno_value = 0) {
    Failure failure = make_failure(
        Errc::binary_refused,
        "The binary of the release " + release.name.text() + " (" + release.path + ") " + what
    );
    if (errno_value != 0) {
        failure.peer_text = make_system_failure(errno_value, "").peer_text;
    }
    return failure;
}

Failure changed(const Release& release) {
    return make_failure(
        Errc::binary_changed,
        "The binary of the release " + release.name.text() + " (" + release.path +
            ") was changed after it was checked; start the upgrade again when its installation is "
            "complete."
    );
}

std::int64_t to_ns(const timespec& time) {
    return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

/// Whether only root and we can change what this is.
/// @param path  where it is
std::optional<std::string> find_distrust(const struct stat& info, const std::string& path) {
    if (!is_ours(info.st_uid)) {
        return "belongs to user " + std::to_string(info.st_uid) +
               "; it must belong to root, so that nobody else can change it.";
    }
    // why: such a folder is open to all by design, and the host would not work without that.
    const bool is_meant_so =
        S_ISDIR(info.st_mode) && ((info.st_mode & S_ISVTX) != 0 || path.find('/', 1) == path.npos);
    if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0 && is_meant_so) {
        return std::string("can be written by others than its owner, and is meant so; put what "
                           "must be trusted elsewhere, e.g. below /opt or /var/lib.");
    }
    if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return std::string("can be written by others than its owner; take that permission away "
                           "(chmod go-w).");
    }
    return std::nullopt;
}

/// One element of the path, opened without following it.
Result<UniqueFd> open_element(
    const Release& release,
    const UniqueFd& folder,
    const std::string& name,
    const std::string& so_far
) {
    UniqueFd fd(::openat(folder.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) {
        if (errno == ENOENT) {
            return refuse(
                release, "is missing: there is no " + so_far + "; install it or correct the path."
            );
        }
        return refuse(
            release, "cannot be reached at " + so_far + "; check its permissions.", errno
        );
    }
    struct stat info {};
    if (::fstat(fd.get(), &info) != 0) {
        return refuse(release, "cannot be examined at " + so_far + ".", errno);
    }
    if (S_ISLNK(info.st_mode)) {
        return refuse(
            release,
            "has a symbolic link in its path, " + so_far +
                "; write the path that the link leads to."
        );
    }
    if (const auto distrust = find_distrust(info, so_far)) {
        return refuse(release, "cannot be trusted: " + so_far + " " + *distrust);
    }
    return fd;
}

Result<std::vector<std::string>> split_path(const Release& release) {
    std::vector<std::string> names;
    std::size_t begin = 1;
    while (begin <= release.path.size()) {
        const std::size_t end = std::min(release.path.find('/', begin), release.path.size());
        std::string name = release.path.substr(begin, end - begin);
        if (name == "." || name == "..") {
            return refuse(release, "has . or .. in its path; write the path without it.");
        }
        if (!name.empty()) {
            names.push_back(std::move(name));
        }
        begin = end + 1;
    }
    if (!release.path.starts_with('/') || names.empty() || release.path.ends_with('/')) {
        return refuse(release, "is not named by an absolute path of a file; correct the path.");
    }
    return names;
}

/// Walks the path element by element, so that none can be exchanged for a link in between.
Result<UniqueFd> open_path(const Release& release) {
    Result<std::vector<std::string>> names = split_path(release);
    if (names.has_error()) {
        return names.error();
    }
    UniqueFd at(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!at) {
        return refuse(release, "cannot be reached.", errno);
    }
    std::string so_far;
    for (const std::string& name : *names) {
        so_far += "/" + name;
        Result<UniqueFd> element = open_element(release, at, name, so_far);
        if (element.has_error()) {
            return element.error();
        }
        at = std::move(*element);
    }
    struct stat info {};
    if (::fstat(at.get(), &info) != 0) {
        return refuse(release, "cannot be examined.", errno);
    }
    if (S_ISDIR(info.st_mode)) {
        return refuse(release, "is a folder; write the path of the QEMU binary in it.");
    }
    if (!S_ISREG(info.st_mode)) {
        return refuse(release, "is not a file; write the path of a QEMU binary.");
    }
    // why: by the descriptor, not by the path: this is the very file that was judged.
    const std::string self = "/proc/self/fd/" + std::to_string(at.get());
    UniqueFd fd(::open(self.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) {
        return refuse(release, "cannot be read; check its permissions.", errno);
    }
    return fd;
}

/// Reads part of the file; fewer bytes at its end.
Result<std::string>
load_range(const Release& release, const UniqueFd& fd, std::uint64_t offset, std::size_t size) {
    std::string bytes(size, '\0');
    std::size_t done = 0;
    while (done < size) {
        const ssize_t count =
            ::pread(fd.get(), bytes.data() + done, size - done, static_cast<off_t>(offset + done));
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return refuse(release, "cannot be read; check the disk.", errno);
        }
        if (count == 0) {
            break;
        }
        done += static_cast<std::size_t>(count);
    }
    bytes.resize(done);
    return bytes;
}

Result<std::string> load_build_id(const Release& release, const UniqueFd& fd) {
    const Result<std::string> start = load_range(release, fd, 0, kElfStartBytes);
    if (start.has_error()) {
        return start.error();
    }
    const std::optional<ElfHeader> header = parse_elf_header(*start);
    if (!header) {
        return refuse(
            release,
            "is not a program for this kind of machine; write the path of the QEMU binary itself, "
            "not of a script around it."
        );
    }
    for (const ByteRange& range : header->notes) {
        const std::uint64_t size = std::min(range.size, kMaxNoteBytes);
        const auto notes = load_range(release, fd, range.offset, static_cast<std::size_t>(size));
        if (notes.has_error()) {
            return notes.error();
        }
        if (std::string id = find_build_id(*notes); !id.empty()) {
            return id;
        }
    }
    return std::string();
}

/// Hash of what is fed to it.
class Sha256 {
public:
    Sha256() { is_ready_ = gnutls_hash_init(&handle_, GNUTLS_DIG_SHA256) == 0; }
    Sha256(const Sha256&) = delete;
    Sha256& operator=(const Sha256&) = delete;
    Sha256(Sha256&&) = delete;
    Sha256& operator=(Sha256&&) = delete;
    ~Sha256() {
        if (is_ready_) {
            gnutls_hash_deinit(handle_, nullptr);
        }
    }

    void feed(std::string_view bytes) {
        is_good_ = is_good_ && is_ready_ && gnutls_hash(handle_, bytes.data(), bytes.size()) == 0;
    }

    /// Hex digits; "" if the library failed.
    [[nodiscard]] std::string finish() {
        if (!is_good_ || !is_ready_) {
            return {};
        }
        constexpr std::string_view kDigits = "0123456789abcdef";
        std::array<unsigned char, 32> digest{};
        gnutls_hash_output(handle_, digest.data());
        std::string text;
        for (const unsigned char byte : digest) {
            text += kDigits[byte >> 4U];
            text += kDigits[byte & 15U];
        }
        return text;
    }

private:
    gnutls_hash_hd_t handle_ = nullptr;
    bool is_ready_ = false;
    bool is_good_ = true;
};

/// The version number after kVersionMark, if it is in these bytes.
/// @param is_end  nothing follows; otherwise a number at the very end may be cut, and is not taken
std::optional<QemuVersion> find_version(std::string_view bytes, bool is_end) {
    for (std::size_t at = bytes.find(kVersionMark); at != std::string_view::npos;
         at = bytes.find(kVersionMark, at + 1)) {
        const std::string_view number = bytes.substr(at + kVersionMark.size(), kVersionBytes);
        if (number.size() < kVersionBytes && !is_end) {
            break; // the next chunk has it whole
        }
        if (const auto version = parse_qemu_version(number)) {
            return version;
        }
    }
    return std::nullopt;
}

/// Reads the whole file once, for its hash and its version.
Result<void> read_through(const Release& release, PinnedBinary& binary) {
    Sha256 hash;
    std::string carry; // the end of the last chunk, since the mark may lie across two
    std::optional<QemuVersion> version;
    std::int64_t size = 0;
    while (true) {
        const auto offset = static_cast<std::uint64_t>(size);
        const Result<std::string> chunk = load_range(release, binary.fd, offset, kChunkBytes);
        if (chunk.has_error()) {
            return chunk.error();
        }
        if (chunk->empty()) {
            break;
        }
        hash.feed(*chunk);
        size += static_cast<std::int64_t>(chunk->size());
        if (!version) {
            const std::string window = carry + *chunk;
            binary.is_qemu = binary.is_qemu || window.find(kVersionMark) != std::string::npos;
            version = find_version(window, chunk->size() < kChunkBytes);
            const std::size_t kept = std::min(window.size(), kVersionMark.size() + kVersionBytes);
            carry = window.substr(window.size() - kept);
        }
        if (size > kMaxBinaryBytes) {
            return refuse(release, "is larger than 2 GiB; write the path of a QEMU binary.");
        }
    }
    binary.sha256 = hash.finish();
    if (binary.sha256.empty()) {
        return refuse(release, "cannot be hashed, since the GnuTLS library refuses SHA-256.");
    }
    const auto said = parse_qemu_version(release.version);
    binary.version = version ? *version : said.value_or(QemuVersion{});
    return size == binary.size ? Result<void>() : changed(release);
}

void note_identity(const struct stat& info, PinnedBinary& binary) {
    binary.device = info.st_dev;
    binary.inode = info.st_ino;
    binary.size = info.st_size;
    binary.mtime_ns = to_ns(info.st_mtim);
    binary.ctime_ns = to_ns(info.st_ctim);
}

} // namespace

Result<void> check_trusted(const std::string& path) {
    UniqueFd at(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    std::string so_far;
    for (std::size_t begin = 1; begin < path.size();) {
        const std::size_t end = std::min(path.find('/', begin), path.size());
        const std::string name = path.substr(begin, end - begin);
        begin = end + 1;
        if (name.empty()) {
            continue;
        }
        so_far += "/" + name;
        UniqueFd fd(::openat(at.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
        if (!fd && errno == ENOENT) {
            return {};
        }
        struct stat info {};
        if (!fd || ::fstat(fd.get(), &info) != 0) {
            return make_failure(Errc::binary_refused, so_far + " cannot be examined.");
        }
        if (S_ISLNK(info.st_mode)) {
            return make_failure(
                Errc::binary_refused,
                so_far + " is a symbolic link; write the path that the link leads to."
            );
        }
        if (const auto distrust = find_distrust(info, so_far)) {
            return make_failure(Errc::binary_refused, so_far + " " + *distrust);
        }
        at = std::move(fd);
    }
    return {};
}

Result<std::shared_ptr<const PinnedBinary>> pin_binary(const Release& release) {
    Result<UniqueFd> fd = open_path(release);
    if (fd.has_error()) {
        return fd.error();
    }
    const auto binary = std::make_shared<PinnedBinary>();
    binary->release = release;
    binary->fd = std::move(*fd);
    struct stat info {};
    if (::fstat(binary->fd.get(), &info) != 0) {
        return refuse(release, "cannot be examined.", errno);
    }
    if ((info.st_mode & (S_IXUSR | S_IXGRP | S_IXOTH)) == 0) {
        return refuse(release, "is not executable; make it so (chmod +x), if it is a QEMU binary.");
    }
    note_identity(info, *binary);
    Result<std::string> build_id = load_build_id(release, binary->fd);
    if (build_id.has_error()) {
        return build_id.error();
    }
    binary->build_id = std::move(*build_id);
    const Result<void> read = read_through(release, *binary);
    if (read.has_error()) {
        return read.error();
    }
    const Result<void> unchanged = check_unchanged(*binary);
    if (unchanged.has_error()) {
        return unchanged.error();
    }
    if (!release.sha256.empty() && release.sha256 != binary->sha256) {
        return refuse(
            release,
            "has the SHA-256 hash " + binary->sha256 + " and not the one of its release file, " +
                release.sha256 + "; install the right binary, or correct the release file."
        );
    }
    return std::shared_ptr<const PinnedBinary>(binary);
}

Result<void> check_unchanged(const PinnedBinary& binary) {
    struct stat info {};
    if (::fstat(binary.fd.get(), &info) != 0) {
        return make_system_failure(errno, "examining the binary of a release");
    }
    PinnedBinary now;
    note_identity(info, now);
    // why: ctime changes with every write, chmod, rename and link, whatever happens to mtime. It
    // also changes when a package upgrade unlinks the file: then the release is another one, too.
    const bool is_same = now.size == binary.size && now.mtime_ns == binary.mtime_ns &&
                         now.ctime_ns == binary.ctime_ns;
    return is_same ? Result<void>() : changed(binary.release);
}

} // namespace qhup::upgrade
