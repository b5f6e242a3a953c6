// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/elf.hpp"

#include <elf.h>

#include <cstring>

namespace qhup::upgrade {
namespace {

#if defined(__x86_64__)
constexpr unsigned kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr unsigned kMachine = EM_AARCH64;
#else
constexpr unsigned kMachine = EM_NONE; // any
#endif

constexpr std::size_t kNoteAlignment = 4;

/// A copy of the struct at this offset; nothing if it does not lie within the bytes.
template <class T>
std::optional<T> read_at(std::string_view bytes, std::uint64_t offset) {
    if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) {
        return std::nullopt;
    }
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof(T));
    return value;
}

std::size_t aligned(std::size_t size) {
    return (size + kNoteAlignment - 1) / kNoteAlignment * kNoteAlignment;
}

std::string to_hex(std::string_view bytes) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string text;
    for (const char c : bytes) {
        const auto byte = static_cast<unsigned char>(c);
        text += kDigits[byte >> 4U];
        text += kDigits[byte & 15U];
    }
    return text;
}

} // namespace

std::optional<ElfHeader> parse_elf_header(std::string_view start) {
    const auto header = read_at<Elf64_Ehdr>(start, 0);
    if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
        header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB) {
        return std::nullopt;
    }
    const bool is_executable = header->e_type == ET_EXEC || header->e_type == ET_DYN;
    const bool is_ours = kMachine == EM_NONE || header->e_machine == kMachine;
    if (!is_executable || !is_ours || header->e_phnum == 0) {
        return std::nullopt;
    }
    ElfHeader result;
    for (unsigned i = 0; i < header->e_phnum; ++i) {
        const std::uint64_t offset = header->e_phoff + std::uint64_t{i} * sizeof(Elf64_Phdr);
        const auto segment = read_at<Elf64_Phdr>(start, offset);
        if (!segment || offset < header->e_phoff) {
            return std::nullopt;
        }
        if (segment->p_type == PT_NOTE) {
            result.notes.push_back({segment->p_offset, segment->p_filesz});
        }
    }
    return result;
}

std::string find_build_id(std::string_view notes) {
    while (const auto note = read_at<Elf64_Nhdr>(notes, 0)) {
        notes.remove_prefix(sizeof(Elf64_Nhdr));
        const std::size_t name_size = aligned(note->n_namesz);
        const std::size_t value_size = aligned(note->n_descsz);
        if (name_size > notes.size() || note->n_descsz > notes.size() - name_size) {
            break;
        }
        const std::string_view name = notes.substr(0, note->n_namesz);
        if (note->n_type == NT_GNU_BUILD_ID && name == std::string_view("GNU\0", 4)) {
            return to_hex(notes.substr(name_size, note->n_descsz));
        }
        if (value_size > notes.size() - name_size) {
            break;
        }
        notes.remove_prefix(name_size + value_size);
    }
    return {};
}

} // namespace qhup::upgrade
