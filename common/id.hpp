// SPDX-License-Identifier: GPL-2.0-or-later
//
// Typed wrapper for identifiers, so that a VM's id cannot be passed where an upgrade's is wanted.
//   struct VmIdTag;  using VmId = Id<VmIdTag>;
#pragma once

#include <compare>
#include <functional>
#include <string>
#include <utility>

namespace qhup {

template <class Tag>
class Id {
public:
    Id() = default;
    explicit Id(std::string text) : text_(std::move(text)) {}

    [[nodiscard]] const std::string& text() const noexcept { return text_; }
    [[nodiscard]] bool empty() const noexcept { return text_.empty(); }

    friend bool operator==(const Id&, const Id&) = default;
    friend auto operator<=>(const Id&, const Id&) = default;

private:
    std::string text_;
};

} // namespace qhup

template <class Tag>
struct std::hash<qhup::Id<Tag>> {
    std::size_t operator()(const qhup::Id<Tag>& id) const noexcept {
        return std::hash<std::string>{}(id.text());
    }
};
