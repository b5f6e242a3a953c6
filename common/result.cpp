// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/result.hpp"

#include "common/text.hpp"

#include <stdexcept>
#include <system_error>

namespace qhup {
namespace {

class CommonCategory final : public Category {
public:
    constexpr CommonCategory() noexcept : Category(0x9d2c6f0a51b7e401U) {}

    const char* name() const noexcept override { return "qhup"; }

    std::string message(int value) const override {
        switch (static_cast<Errc>(value)) {
        case Errc::cancelled: return "cancelled";
        case Errc::timed_out: return "timed out";
        case Errc::system_error: return "the system refused";
        case Errc::invalid_argument: return "invalid argument";
        case Errc::not_found: return "not found";
        case Errc::shutting_down: return "shutting down";
        case Errc::bug: return "internal error";
        }
        return "unknown error";
    }

    Severity severity(int value) const noexcept override {
        switch (static_cast<Errc>(value)) {
        case Errc::invalid_argument:
        case Errc::not_found: return Severity::refused;
        case Errc::shutting_down:
        case Errc::system_error: return Severity::transient;
        case Errc::cancelled:
        case Errc::timed_out:
        case Errc::bug: return Severity::needs_operator;
        }
        return Severity::needs_operator;
    }

    const char* wire_code(int value) const noexcept override {
        switch (static_cast<Errc>(value)) {
        case Errc::cancelled: return "cancelled";
        case Errc::timed_out: return "timed_out";
        case Errc::system_error: return "system_error";
        case Errc::invalid_argument: return "invalid_argument";
        case Errc::not_found: return "not_found";
        case Errc::shutting_down: return "shutting_down";
        case Errc::bug: return "bug";
        }
        return "internal_error";
    }

protected:
    Kind kind(int value) const noexcept override {
        switch (static_cast<Errc>(value)) {
        case Errc::cancelled: return Kind::cancelled;
        case Errc::timed_out: return Kind::timed_out;
        default: return Kind::other;
        }
    }
};

const Category* to_our_category(const error_code& code) noexcept {
    return dynamic_cast<const Category*>(&code.category());
}

} // namespace

boost::system::error_condition Category::default_error_condition(int value) const noexcept {
    switch (kind(value)) {
    case Kind::cancelled: return make_error_condition(boost::system::errc::operation_canceled);
    case Kind::timed_out: return make_error_condition(boost::system::errc::timed_out);
    case Kind::other: break;
    }
    return {value, *this};
}

Category::Kind Category::kind(int /*value*/) const noexcept {
    return Kind::other;
}

const Category& common_category() noexcept {
    static const CommonCategory category;
    return category;
}

error_code make_error_code(Errc value) noexcept {
    return {static_cast<int>(value), common_category()};
}

Failure make_failure(
    error_code code, std::string message, std::string peer_text, boost::source_location where
) {
    return Failure{code, std::move(message), std::move(peer_text), {}, where};
}

Failure make_system_failure(int errno_value, std::string message, boost::source_location where) {
    return make_failure(
        Errc::system_error, std::move(message), std::generic_category().message(errno_value), where
    );
}

Failure with_context(Failure failure, std::string_view doing) {
    failure.message = std::string(doing) + ": " + failure.message;
    return failure;
}

void add_also(Failure& first, Failure later) {
    first.also.push_back(std::move(later));
}

bool is_cancelled(const Failure& failure) noexcept {
    return failure.code == boost::system::errc::operation_canceled;
}

bool is_timed_out(const Failure& failure) noexcept {
    return failure.code == boost::system::errc::timed_out;
}

Severity severity_of(const error_code& code) noexcept {
    const Category* ours = to_our_category(code);
    return ours == nullptr ? Severity::needs_operator : ours->severity(code.value());
}

std::string wire_code_of(const error_code& code) {
    const Category* ours = to_our_category(code);
    return ours == nullptr ? "internal_error" : ours->wire_code(code.value());
}

std::string_view to_string(Severity severity) noexcept {
    switch (severity) {
    case Severity::refused: return "refused";
    case Severity::transient: return "transient";
    case Severity::rolled_back: return "rolled_back";
    case Severity::needs_operator: return "needs_operator";
    }
    return "needs_operator";
}

std::string to_text(const Failure& failure) {
    std::string text = failure.message.empty() ? failure.code.message() : failure.message;
    if (!failure.peer_text.empty()) {
        text += " (" + quote_peer_text(failure.peer_text) + ")";
    }
    for (const Failure& later : failure.also) {
        text += "; then " + to_text(later);
    }
    return text;
}

void throw_exception_from_error(const Failure& failure, const boost::source_location& where) {
    throw std::logic_error(
        "value() of a failed result at " + where.to_string() + ": " + to_text(failure)
    );
}

} // namespace qhup
