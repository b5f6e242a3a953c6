// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/vm_facts.hpp"

#include "qmp-client/message.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <limits>
#include <set>
#include <sstream>
#include <utility>

namespace qhup::upgrade {
namespace {

using Json = nlohmann::json;

// Bounds of what is kept of a peer's words. A real VM stays far below them.
constexpr std::size_t kMaxText = 4096;
constexpr std::size_t kMaxArguments = 4096;
constexpr std::size_t kMaxArgumentsBytes = 1U << 19U;
constexpr std::size_t kMaxBlockers = 1000;
constexpr std::size_t kMaxBlockersBytes = 1U << 17U; // of one VM: each list and run tells them
constexpr std::size_t kMaxDegraded = 1000;
constexpr std::size_t kMaxLinks = 1000;
constexpr std::size_t kMaxTypes = 10'000;
constexpr std::size_t kMaxDescriptors = 10'000;
constexpr std::size_t kMaxImages = 1000;

Failure make_unexpected(std::string message) {
    return make_failure(Errc::unexpected_answer, std::move(message));
}

/// Reads members one after the other; after the first failure the rest is skipped, so that the
/// caller checks once.
class Reader {
public:
    explicit Reader(const Json& object) : object_(object) {}

    std::string text(const char* key) { return bounded(key, take(qmp::get_string(object_, key))); }

    std::string optional_text(const char* key) {
        auto value = take(qmp::get_optional_string(object_, key));
        return bounded(key, std::move(value).value_or(std::string()));
    }

    std::int64_t number(const char* key) { return take(qmp::get_int(object_, key)); }

    std::uint64_t unsigned_number(const char* key) { return take(qmp::get_uint(object_, key)); }

    std::optional<std::int64_t> optional_number(const char* key) {
        return take(qmp::get_optional_int(object_, key));
    }

    bool flag(const char* key) { return take(qmp::get_bool(object_, key)); }

    pid_t pid(std::int64_t value) {
        if (value < 0 || value > std::numeric_limits<pid_t>::max()) {
            fail("a process id is out of range");
            return 0;
        }
        return static_cast<pid_t>(value);
    }

    std::vector<std::string> texts(const char* key) { return take(qmp::get_strings(object_, key)); }

    const Json* optional_array(const char* key) {
        return take(qmp::get_optional_array(object_, key));
    }

    const Json* optional_object(const char* key) {
        return take(qmp::get_optional_object(object_, key));
    }

    void fail(const std::string& what) {
        if (!failure_) {
            failure_ = make_unexpected("reading an answer of QEMU: " + what);
        }
    }

    void fail(Failure failure) {
        if (!failure_) {
            failure_ = std::move(failure);
        }
    }

    [[nodiscard]] const std::optional<Failure>& failure() const { return failure_; }

private:
    template <class T>
    T take(Result<T> result) {
        if (result.has_value()) {
            return std::move(*result);
        }
        fail(result.error().message);
        return T{};
    }

    std::string bounded(const char* key, std::string value) {
        if (value.size() > kMaxText) {
            fail("the member " + std::string(key) + " is too long");
        }
        return value;
    }

    const Json& object_;
    std::optional<Failure> failure_;
};

std::chrono::nanoseconds part_of(Reader& reader, const char* key) {
    const std::int64_t ns = reader.optional_number(key).value_or(0);
    if (ns < 0) {
        reader.fail("the time " + std::string(key) + " is negative");
        return {};
    }
    return std::chrono::nanoseconds(ns);
}

void read_argv(Reader& reader, VmFacts& facts) {
    facts.argv = reader.texts("argv");
    std::size_t bytes = 0;
    for (const std::string& argument : facts.argv) {
        bytes += argument.size() + 1;
    }
    if (facts.argv.size() > kMaxArguments || bytes > kMaxArgumentsBytes) {
        reader.fail("the command line is too long");
    }
}

void read_blockers(Reader& reader, VmFacts& facts) {
    const Json* const array = reader.optional_array("blockers");
    if (array == nullptr) {
        return;
    }
    if (array->size() > kMaxBlockers) {
        reader.fail("there are too many blockers");
        return;
    }
    std::size_t bytes = 0;
    for (const Json& item : *array) {
        Reader member(item);
        Blocker blocker{member.text("id"), member.text("class"), member.text("reason")};
        if (member.failure()) {
            reader.fail(*member.failure());
            return;
        }
        bytes += blocker.id.size() + blocker.klass.size() + blocker.reason.size();
        if (bytes > kMaxBlockersBytes) {
            reader.fail("the blockers are too long");
            return;
        }
        facts.blockers.push_back(std::move(blocker));
    }
}

void read_links(Reader& reader, VmFacts& facts) {
    const Json* const array = reader.optional_array("links");
    if (array == nullptr) {
        return;
    }
    if (array->size() > kMaxLinks) {
        reader.fail("there are too many links");
        return;
    }
    for (const Json& item : *array) {
        Reader member(item);
        Link link{member.text("id"), member.text("ifname"), member.unsigned_number("queue-length")};
        if (member.failure()) {
            reader.fail(*member.failure());
            return;
        }
        facts.links.push_back(std::move(link));
    }
}

void read_images(Reader& reader, VmFacts& facts) {
    const Json* const array = reader.optional_array("descriptors");
    if (array == nullptr) {
        return;
    }
    if (array->size() > kMaxDescriptors) {
        reader.fail("there are too many descriptors");
        return;
    }
    for (const Json& item : *array) {
        Reader member(item);
        const std::optional<FileId> file = parse_image_id(member.text("id"));
        const std::int64_t fd = member.number("fd");
        if (member.failure()) {
            reader.fail(*member.failure());
            return;
        }
        const bool is_number = fd >= 0 && fd <= std::numeric_limits<int>::max();
        if (file && is_number && facts.images.size() < kMaxImages) {
            facts.images.push_back({static_cast<int>(fd), *file});
        }
    }
}

/// The files that this block node and those below it are made of.
void read_names_of(const Json& node, VmFacts& facts) {
    // qemu: hot-upgrade-shape.c, shape_node(): a node without children has a file name.
    Reader member(node);
    const std::string driver = member.optional_text("driver");
    std::string name = member.optional_text("filename");
    const bool is_file = driver == "file" || driver == "host_device" || driver == "host_cdrom";
    if (is_file && !name.empty() && facts.image_names.size() < kMaxImages) {
        const bool is_relative = !name.starts_with('/') && !facts.cwd.empty();
        const std::string folder = facts.cwd.ends_with('/') ? facts.cwd : facts.cwd + '/';
        facts.image_names.insert(is_relative ? folder + name : std::move(name));
    }
    const Json* const children = member.optional_array("children");
    if (children == nullptr) {
        return;
    }
    for (const Json& child : *children) {
        Reader below(child);
        if (const Json* const next = below.optional_object("node")) {
            read_names_of(*next, facts);
        }
    }
}

void read_image_names(const Json* shape, VmFacts& facts) {
    if (shape == nullptr) {
        return;
    }
    // why: what is not as expected is passed over. Names only help to tell why a file has none.
    Reader parts(*shape);
    for (const char* const list : {"block", "nodes"}) {
        const Json* const array = parts.optional_array(list);
        for (std::size_t i = 0; array != nullptr && i < array->size(); ++i) {
            Reader entry((*array)[i]);
            if (const Json* const root = entry.optional_object("root")) {
                read_names_of(*root, facts);
            }
        }
    }
}

/// Where QEMU puts what the user adds: with an id, and without.
constexpr std::array<std::string_view, 2> kUserPaths{
    "/machine/peripheral/",
    "/machine/peripheral-anon/",
};

/// A device of the user, or a part of one; nothing for what the machine made itself, which goes
/// with its type.
std::optional<UsedType> read_device(Reader& entry) {
    const std::string path = entry.text("path");
    UsedType used{UsedType::Kind::device, entry.optional_text("id"), entry.text("type")};
    const auto* const place =
        std::find_if(kUserPaths.begin(), kUserPaths.end(), [&path](auto each) {
            return path.starts_with(each);
        });
    if (place == kUserPaths.end()) {
        return std::nullopt;
    }
    const std::string rest = path.substr(place->size());
    used.kind = rest.find('/') == std::string::npos ? used.kind : UsedType::Kind::part;
    used.name = used.name.empty() ? rest : used.name;
    return used;
}

/// The entries of one list of the shape.
template <class Read>
void read_types_of(Reader& reader, Reader& shape, VmFacts& facts, const char* list, Read read) {
    const Json* const array = shape.optional_array(list);
    if (array == nullptr) {
        return;
    }
    if (array->size() > kMaxTypes) {
        reader.fail("the shape has too many " + std::string(list));
        return;
    }
    for (const Json& item : *array) {
        Reader entry(item);
        std::optional<UsedType> used = read(entry);
        if (entry.failure()) {
            reader.fail(*entry.failure());
            return;
        }
        if (used) {
            facts.types.push_back(std::move(*used));
        }
    }
}

void read_types(Reader& reader, const Json* shape, VmFacts& facts) {
    if (shape == nullptr) {
        return;
    }
    Reader parts(*shape);
    read_types_of(reader, parts, facts, "devices", read_device);
    read_types_of(reader, parts, facts, "objects", [](Reader& entry) {
        return std::optional(UsedType{UsedType::Kind::object, entry.text("id"), entry.text("type")}
        );
    });
    if (const Json* const cpus = parts.optional_object("cpus")) {
        Reader cpu(*cpus);
        std::string type = cpu.optional_text("type");
        if (!type.empty()) {
            facts.types.push_back({UsedType::Kind::cpu, "", std::move(type)});
        }
        if (cpu.failure()) {
            reader.fail(*cpu.failure());
        }
    }
    if (parts.failure()) {
        reader.fail(*parts.failure());
    }
}

void read_last_error(Reader& reader, VmFacts& facts) {
    const Json* const object = reader.optional_object("last-error");
    if (object == nullptr) {
        return;
    }
    Reader member(*object);
    LastError last;
    last.code = parse_qemu_code(member.text("code"));
    last.phase = member.optional_text("phase");
    last.message = member.optional_text("message");
    last.exit_status = parse_exit_status(last.message);
    // why: not bounded to kMaxText as the others: QEMU keeps some kilobytes of it.
    const Result<std::optional<std::string>> words = qmp::get_optional_string(*object, "stderr");
    if (words.has_value() && words->has_value()) {
        last.stderr_text = (*words)->substr(0, kMaxText);
    }
    if (member.failure()) {
        reader.fail(*member.failure());
        return;
    }
    facts.last_error = std::move(last);
}

void read_role_and_state(Reader& reader, VmFacts& facts) {
    const std::string role = reader.text("role");
    if (role == "target") {
        facts.role = Role::target;
    } else if (role != "source") {
        reader.fail("the role is neither source nor target");
    }
    const std::optional<PairState> state = parse_pair_state(reader.text("state"));
    if (!state) {
        reader.fail("the state is not one that is documented");
    }
    facts.state = state.value_or(PairState::none);
}

void read_rest(Reader& reader, VmFacts& facts) {
    facts.package = reader.optional_text("package");
    facts.build_id = reader.optional_text("build-id");
    facts.claimed_pid = reader.pid(reader.number("pid"));
    facts.name = reader.optional_text("name");
    facts.uuid = reader.optional_text("uuid");
    facts.machine = reader.text("machine");
    facts.is_enabled = reader.flag("enabled");
    facts.run_state = reader.text("run-state");
    facts.cwd = reader.optional_text("cwd");
    facts.pidfile = reader.optional_text("pidfile");
    facts.ram_bytes = reader.unsigned_number("ram-bytes");
    facts.generation = reader.unsigned_number("generation");
    facts.shape_digest = reader.optional_text("shape-digest");
    facts.claimed_child_pid = reader.pid(reader.optional_number("child-pid").value_or(0));
    facts.rollback_waits_for = reader.optional_text("rollback-waits-for");
    if (const auto lease = reader.optional_number("lease-left")) {
        facts.lease_left = std::chrono::nanoseconds(*lease);
    }
    if (const Json* const degraded = reader.optional_array("takeover-degraded")) {
        for (const Json& item : *degraded) {
            if (!item.is_string() || facts.takeover_degraded.size() == kMaxDegraded) {
                reader.fail("takeover-degraded is not a short list of texts");
                break;
            }
            facts.takeover_degraded.push_back(item.get<std::string>().substr(0, kMaxText));
        }
    }
}

/// The number after `count` spaces, for /proc/PID/stat.
std::optional<std::uint64_t> field_of(std::string_view text, int count) {
    std::size_t at = 0;
    for (int i = 0; i < count; ++i) {
        at = text.find(' ', at);
        if (at == std::string_view::npos) {
            return std::nullopt;
        }
        ++at;
    }
    std::uint64_t value = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + text.size(), value);
    return error == std::errc{} ? std::optional(value) : std::nullopt;
}

/// FNV-1a.
class ClassHash {
public:
    void add(std::string_view bytes) noexcept {
        for (const char c : bytes) {
            value_ = (value_ ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
        }
        value_ = (value_ ^ 0xFFU) * 0x100000001B3ULL; // keeps the parts apart
    }
    [[nodiscard]] std::string text() const {
        static constexpr std::string_view kDigits = "0123456789abcdef";
        std::string text;
        for (int shift = 60; shift >= 0; shift -= 4) {
            text += kDigits[(value_ >> static_cast<unsigned int>(shift)) & 0xFU];
        }
        return text;
    }

private:
    std::uint64_t value_ = 0xCBF29CE484222325ULL;
};

/// One member of each entry of a list of the shape, in any order.
void add_members(ClassHash& hash, const Json& shape, const char* list, const char* key) {
    hash.add(list);
    const auto found = shape.find(list);
    if (found == shape.end() || !found->is_array()) {
        return;
    }
    std::multiset<std::string> values;
    for (const Json& entry : *found) {
        const auto value = entry.is_object() ? entry.find(key) : entry.end();
        if (value != entry.end() && value->is_string()) {
            values.insert(value->get<std::string>());
        }
    }
    for (const std::string& value : values) {
        hash.add(value);
    }
}

} // namespace

std::string make_shape_class(std::string_view machine, const Json& shape) {
    ClassHash hash;
    hash.add(machine);
    if (!shape.is_object()) {
        return hash.text();
    }
    if (const auto cpus = shape.find("cpus"); cpus != shape.end()) {
        hash.add(cpus->dump(-1, ' ', false, Json::error_handler_t::replace));
    }
    add_members(hash, shape, "ram", "idstr");
    add_members(hash, shape, "devices", "type");
    add_members(hash, shape, "net", "type");
    add_members(hash, shape, "chardevs", "type");
    add_members(hash, shape, "objects", "type");
    return hash.text();
}

std::optional<FileId> parse_image_id(std::string_view id) noexcept {
    // qemu: block/file-posix.c, raw_hot_upgrade_id(): the device in hex, the inode in decimal.
    constexpr std::string_view kPrefix = "image/";
    if (!id.starts_with(kPrefix)) {
        return std::nullopt;
    }
    id.remove_prefix(kPrefix.size());
    const char* const end = id.data() + id.size();
    FileId file;
    const auto device = std::from_chars(id.data(), end, file.device, 16);
    if (device.ec != std::errc() || device.ptr == end || *device.ptr != ':') {
        return std::nullopt;
    }
    const auto inode = std::from_chars(device.ptr + 1, end, file.inode);
    const bool is_whole = inode.ec == std::errc() && inode.ptr != end && *inode.ptr == '/';
    return is_whole ? std::optional(file) : std::nullopt;
}

std::string parse_refused_section(std::string_view words) {
    // qemu: migration/savevm.c, vmstate_load(): "... for instance 0x0 of device 'NAME'"
    constexpr std::string_view kBefore = "of device '";
    const std::size_t at = words.find(kBefore);
    if (at == std::string_view::npos) {
        return {};
    }
    const std::string_view rest = words.substr(at + kBefore.size());
    return std::string(rest.substr(0, std::min<std::size_t>(rest.find('\''), 128)));
}

LinkCounters parse_link_counters(std::string_view net_dev_text) {
    // qemu: none of its; Linux: net/core/net-procfs.c. Eight numbers of what was received, then
    // packets and drops of what was sent as the second and fourth.
    constexpr std::size_t kNumbers = 12;
    constexpr std::size_t kSent = 9;
    constexpr std::size_t kDropped = 11;
    LinkCounters counters;
    std::istringstream lines{std::string(net_dev_text)};
    for (std::string line; std::getline(lines, line);) {
        const std::size_t colon = line.rfind(':');
        const std::size_t start = line.find_first_not_of(' ');
        if (colon == std::string::npos || start >= colon) {
            continue;
        }
        std::istringstream words(line.substr(colon + 1));
        std::array<std::uint64_t, kNumbers> numbers{};
        const bool is_whole = std::all_of(numbers.begin(), numbers.end(), [&words](auto& number) {
            return static_cast<bool>(words >> number);
        });
        if (is_whole) {
            counters[line.substr(start, colon - start)] = numbers[kSent] + numbers[kDropped];
        }
    }
    return counters;
}

std::string_view to_string(Role role) noexcept {
    return role == Role::source ? "source" : "target";
}

std::string_view to_string(PairState state) noexcept {
    switch (state) {
    case PairState::none: return "none";
    case PairState::preparing: return "preparing";
    case PairState::prepared: return "prepared";
    case PairState::frozen: return "frozen";
    case PairState::ceded: return "ceded";
    case PairState::rolling_back: return "rolling-back";
    case PairState::starting: return "starting";
    case PairState::standby: return "standby";
    case PairState::loading: return "loading";
    case PairState::loaded: return "loaded";
    case PairState::running: return "running";
    }
    return "";
}

std::optional<PairState> parse_pair_state(std::string_view word) noexcept {
    for (const PairState state : kAllPairStates) {
        if (to_string(state) == word) {
            return state;
        }
    }
    return std::nullopt;
}

std::string_view to_string(Observation::Presence presence) noexcept {
    switch (presence) {
    case Observation::Presence::absent: return "absent";
    case Observation::Presence::silent: return "silent";
    case Observation::Presence::answers: return "answers";
    }
    return "";
}

std::map<std::string, std::int64_t> to_map_ns(const SwitchTimings& timings) {
    return {
        {"flush", timings.flush.count()},
        {"stop", timings.stop.count()},
        {"drain", timings.drain.count()},
        {"save", timings.save.count()},
        {"load", timings.load.count()},
        {"activate", timings.activate.count()},
        {"start", timings.start.count()},
        {"pause", timings.pause.count()},
    };
}

Result<SwitchTimings> parse_switch_timings(const Json& value) {
    Reader reader(value);
    SwitchTimings timings;
    timings.flush = part_of(reader, "flush");
    timings.stop = part_of(reader, "stop");
    timings.drain = part_of(reader, "drain");
    timings.save = part_of(reader, "save");
    timings.load = part_of(reader, "load");
    timings.activate = part_of(reader, "activate");
    timings.start = part_of(reader, "start");
    timings.pause = part_of(reader, "pause");
    const std::int64_t bytes = reader.optional_number("state-bytes").value_or(0);
    timings.state_bytes = bytes < 0 ? 0 : static_cast<std::uint64_t>(bytes);
    if (reader.failure()) {
        return *reader.failure();
    }
    return timings;
}

Result<VmFacts> parse_vm_facts(const Json& value) {
    Reader reader(value);
    VmFacts facts;
    const std::int64_t protocol = reader.number("protocol");
    if (reader.failure()) {
        return *reader.failure();
    }
    if (protocol < 0 || protocol > std::numeric_limits<int>::max()) {
        return make_unexpected("reading an answer of QEMU: the protocol number is out of range");
    }
    facts.protocol = static_cast<int>(protocol);
    facts.version_text = reader.optional_text("version");
    facts.version = parse_qemu_version(facts.version_text).value_or(QemuVersion{});
    if (facts.protocol != kProtocol) {
        // why: another protocol may have other members; the number and version are all we can read.
        return facts;
    }
    read_role_and_state(reader, facts);
    facts.upgrade = UpgradeId(reader.optional_text("upgrade"));
    read_argv(reader, facts);
    read_rest(reader, facts);
    const Json* const shape = reader.optional_object("shape");
    facts.shape_class = make_shape_class(facts.machine, shape == nullptr ? Json() : *shape);
    read_blockers(reader, facts);
    read_links(reader, facts);
    read_types(reader, shape, facts);
    read_images(reader, facts);
    read_image_names(shape, facts);
    read_last_error(reader, facts);
    if (const Json* const timings = reader.optional_object("timings")) {
        const Result<SwitchTimings> parsed = parse_switch_timings(*timings);
        if (parsed.has_error()) {
            return parsed.error();
        }
        facts.timings = *parsed;
    }
    if (reader.failure()) {
        return *reader.failure();
    }
    return facts;
}

std::optional<int> parse_exit_status(std::string_view message) noexcept {
    constexpr std::string_view kWords = "the target exited with status ";
    if (!message.starts_with(kWords)) {
        return std::nullopt;
    }
    message.remove_prefix(kWords.size());
    int status = 0;
    const char* const end = message.data() + message.size();
    const auto [rest, error] = std::from_chars(message.data(), end, status);
    return error == std::errc() && rest == end ? std::optional(status) : std::nullopt;
}

std::optional<std::uint64_t> find_number(std::string_view text, std::string_view key) {
    std::size_t at = 0;
    if (!text.starts_with(key)) {
        at = text.find("\n" + std::string(key));
        if (at == std::string_view::npos) {
            return std::nullopt;
        }
        ++at;
    }
    at = text.find_first_not_of(" \t", at + key.size());
    if (at == std::string_view::npos) {
        return std::nullopt;
    }
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), number);
    return error == std::errc() ? std::optional(number) : std::nullopt;
}

/// The last of the numbers after `key`; 0 if there is none.
static uid_t last_number_of(std::string_view text, std::string_view key) {
    const std::size_t at = text.find(key);
    if (at == std::string_view::npos) {
        return 0;
    }
    const std::string_view line = text.substr(at, text.find('\n', at) - at);
    const std::string_view last = line.substr(line.find_last_of("\t ") + 1);
    uid_t number = 0;
    const auto [end, error] = std::from_chars(last.data(), last.data() + last.size(), number);
    return error == std::errc() ? number : 0;
}

std::optional<std::uint64_t> parse_memlock_limit(std::string_view limits_text) {
    return find_number(limits_text, "Max locked memory");
}

std::optional<std::uint64_t> parse_available_memory(std::string_view meminfo_text) {
    const auto kib = find_number(meminfo_text, "MemAvailable:");
    return kib ? std::optional(*kib * 1024) : std::nullopt;
}

std::string parse_cgroup_path(std::string_view cgroup_text) {
    const std::size_t at = cgroup_text.starts_with("0::") ? 0 : cgroup_text.find("\n0::");
    if (at == std::string_view::npos) {
        return {};
    }
    const std::size_t begin = at + (at == 0 ? 3 : 4);
    const std::string path(cgroup_text.substr(begin, cgroup_text.find('\n', begin) - begin));
    return path.starts_with('/') && path.find("/..") == std::string::npos ? path : std::string();
}

Result<ProcessFacts>
parse_process_facts(pid_t pid, std::string_view stat_text, std::string_view status_text) {
    ProcessFacts facts;
    facts.pid = pid;
    // why: field 2 is the program's name and may hold spaces and parentheses; the last ')' ends it.
    const std::size_t name_end = stat_text.rfind(')');
    const std::string_view rest =
        name_end == std::string_view::npos ? std::string_view() : stat_text.substr(name_end + 1);
    const std::optional<std::uint64_t> ppid = field_of(rest, 2);
    const std::optional<std::uint64_t> start = field_of(rest, 20);
    if (!ppid || !start) {
        return make_unexpected("reading what the kernel says about process " + std::to_string(pid));
    }
    facts.ppid = static_cast<pid_t>(*ppid);
    facts.start_ticks = *start;
    // "NSpid:\t4711\t1": its pid in each namespace, the innermost last.
    const std::size_t line = status_text.find("NSpid:");
    if (line != std::string_view::npos) {
        const std::string_view pids = status_text.substr(line, status_text.find('\n', line) - line);
        const std::size_t last = pids.find_last_of("\t ");
        if (last != std::string_view::npos) {
            const std::string_view number = pids.substr(last + 1);
            const auto [stop, error] =
                std::from_chars(number.data(), number.data() + number.size(), facts.innermost_pid);
            if (error != std::errc{} || stop != number.data() + number.size()) {
                facts.innermost_pid = 0;
            }
        }
    }
    facts.is_pid1_of_namespace = facts.innermost_pid == 1;
    facts.uid = last_number_of(status_text, "Uid:");
    constexpr std::uint64_t kKib = 1024;
    facts.private_bytes = kKib * find_number(status_text, "RssAnon:").value_or(0);
    facts.locked_bytes = kKib * find_number(status_text, "VmLck:").value_or(0);
    facts.threads = find_number(status_text, "Threads:").value_or(0);
    return facts;
}

} // namespace qhup::upgrade
