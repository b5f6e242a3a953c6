// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/elf.hpp"

#include <elf.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

using namespace qhup::upgrade;

namespace {

std::string load_self() {
    std::ifstream file("/proc/self/exe", std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

template <class T>
std::string bytes_of(const T& value) {
    return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

std::string make_note(std::uint32_t type, const std::string& name, const std::string& value) {
    const Elf64_Nhdr header{
        static_cast<std::uint32_t>(name.size()), static_cast<std::uint32_t>(value.size()), type};
    std::string note = bytes_of(header) + name;
    note.resize((note.size() + 3) / 4 * 4);
    note += value;
    note.resize((note.size() + 3) / 4 * 4);
    return note;
}

const std::string kGnu("GNU\0", 4);

} // namespace

TEST_CASE("a program of this machine is recognised and its notes are found", "[upgrade][elf]") {
    const auto header = parse_elf_header(load_self());
    REQUIRE(header.has_value());
    CHECK_FALSE(header->notes.empty());
}

TEST_CASE("what is no program of this machine is recognised, too", "[upgrade][elf]") {
    const std::string self = load_self().substr(0, 4096);
    CHECK_FALSE(parse_elf_header("").has_value());
    CHECK_FALSE(parse_elf_header("#!/bin/sh\nexec qemu\n").has_value());
    CHECK_FALSE(parse_elf_header(self.substr(0, 20)).has_value());
    std::string other = self;
    other[EI_CLASS] = ELFCLASS32;
    CHECK_FALSE(parse_elf_header(other).has_value());
    other = self;
    other[offsetof(Elf64_Ehdr, e_type)] = ET_REL;
    CHECK_FALSE(parse_elf_header(other).has_value());
    other = self;
    other[offsetof(Elf64_Ehdr, e_machine)] = EM_SPARC;
    CHECK_FALSE(parse_elf_header(other).has_value());
}

TEST_CASE("a header that is cut or lies is refused without reading beyond it", "[upgrade][elf]") {
    const std::string self = load_self().substr(0, 4096);
    for (std::size_t size = 0; size < 1024; ++size) {
        (void)parse_elf_header(self.substr(0, size));
    }
    std::string lie = self;
    const std::uint64_t far = ~std::uint64_t{0} - 8;
    std::memcpy(lie.data() + offsetof(Elf64_Ehdr, e_phoff), &far, sizeof(far));
    CHECK_FALSE(parse_elf_header(lie).has_value());
}

TEST_CASE("the build id is found behind other notes", "[upgrade][elf]") {
    const std::string notes = make_note(NT_GNU_ABI_TAG, kGnu, "0123456789abcdef") +
                              make_note(NT_GNU_BUILD_ID, std::string("XYZ\0", 4), "no") +
                              make_note(NT_GNU_BUILD_ID, kGnu, "\xde\xad\xbe\xef\x01");
    CHECK(find_build_id(notes) == "deadbeef01");
}

TEST_CASE("notes that are cut or lie have no build id", "[upgrade][elf]") {
    const std::string good = make_note(NT_GNU_BUILD_ID, kGnu, "abcd");
    for (std::size_t size = 0; size < good.size(); ++size) {
        CHECK(find_build_id(good.substr(0, size)).empty());
    }
    const Elf64_Nhdr lie{4, 0xffffffffU, NT_GNU_BUILD_ID};
    CHECK(find_build_id(bytes_of(lie) + kGnu + "abcd").empty());
    const Elf64_Nhdr lie2{0xfffffffdU, 4, NT_GNU_BUILD_ID};
    CHECK(find_build_id(bytes_of(lie2) + kGnu + "abcd").empty());
}
