// SPDX-License-Identifier: GPL-2.0-or-later
//
// Errors as values: Failure says which error, what we were doing and what the peer said; Result<T>
// is a value or a Failure. Every function that can fail returns one. Pure: no Asio, no clock.
#pragma once

#include <boost/assert/source_location.hpp>
#include <boost/system/error_category.hpp>
#include <boost/system/error_code.hpp>
#include <boost/system/result.hpp>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qhup {

using boost::system::error_code;

/// What an error means to whoever asked for an upgrade. API code, exit code of the command line and
/// log level derive from it.
enum class Severity {
    refused,        ///< nothing was touched; asking again gives the same answer
    transient,      ///< nothing was touched; asking again may succeed
    rolled_back,    ///< the guest was touched and runs on where it was
    needs_operator, ///< somebody has to look
};

// why: Boost's error_category has a protected destructor on purpose; nobody deletes a category.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wnon-virtual-dtor"
/// Base of the error categories of this project.
class Category : public boost::system::error_category {
public:
    /// Severity of the error value; one switch per category.
    [[nodiscard]] virtual Severity severity(int value) const noexcept = 0;

    /// Stable lower_snake name of the error value, as the API shows it. Never changes.
    [[nodiscard]] virtual const char* wire_code(int value) const noexcept = 0;

    /// Whether the value is boost::system::errc::operation_canceled or timed_out in our words.
    [[nodiscard]] boost::system::error_condition default_error_condition(int value
    ) const noexcept override;

protected:
    using error_category::error_category;
    ~Category() = default;

    /// Kinds that every layer has, so that callers can ask without knowing the layer.
    enum class Kind { other, cancelled, timed_out };
    [[nodiscard]] virtual Kind kind(int value) const noexcept;
};
#pragma GCC diagnostic pop

/// Errors of the support code, and those that need no layer of their own.
enum class Errc {
    cancelled = 1,    ///< the caller gave up; what was started may have taken effect
    timed_out,        ///< the deadline passed; what was started may have taken effect
    system_error,     ///< the kernel refused; peer_text has its words
    invalid_argument, ///< a value that cannot be used
    not_found,        ///< the thing that was named does not exist
    shutting_down,    ///< the daemon is going away and starts nothing new
    bug,              ///< an invariant of ours does not hold
};

[[nodiscard]] const Category& common_category() noexcept;
[[nodiscard]] error_code make_error_code(Errc value) noexcept;

/// One error, with what followed from it.
struct Failure {
    error_code code;              ///< which; comparable; its category tells the layer
    std::string message;          ///< what we were doing, one sentence, no newline, no peer text
    std::string peer_text;        ///< what QEMU or the kernel said; shown quoted; never parsed
    std::vector<Failure> also;    ///< failures of undo or cleanup that followed
    boost::source_location where; ///< where it was made
    // why: boost::source_location, because clang 14 (fuzzers, clang-tidy) lacks the standard one.
};

template <class T>
using Result = boost::system::result<T, Failure>;

/// Makes a Failure at the caller's place.
[[nodiscard]] Failure make_failure(
    error_code code,
    std::string message,
    std::string peer_text = {},
    boost::source_location where = BOOST_CURRENT_LOCATION
);

/// Makes Errc::system_error for an errno value; its text becomes peer_text.
[[nodiscard]] Failure make_system_failure(
    int errno_value, std::string message, boost::source_location where = BOOST_CURRENT_LOCATION
);

/// Puts what the caller was doing in front of the message: "saving state of vm a: sending migrate".
[[nodiscard]] Failure with_context(Failure failure, std::string_view doing);

/// The same for a result; a value passes unchanged.
template <class T>
[[nodiscard]] Result<T> with_context(Result<T> result, std::string_view doing) {
    if (result.has_error()) {
        return with_context(result.error(), doing);
    }
    return result;
}

/// Adds a failure of undo or cleanup. The first failure stays the answer.
void add_also(Failure& first, Failure later);

/// Discards a result on purpose. The reason is for the reader.
template <class T>
void ignore(const Result<T>& /*result*/, std::string_view /*reason*/) noexcept {}

/// Whether the failure says that the caller gave up (any layer, Asio's own codes included).
[[nodiscard]] bool is_cancelled(const Failure& failure) noexcept;
/// Whether the failure says that a deadline passed (any layer).
[[nodiscard]] bool is_timed_out(const Failure& failure) noexcept;

/// Severity of a code; needs_operator for a category that is not ours.
[[nodiscard]] Severity severity_of(const error_code& code) noexcept;
/// Stable name of a code, "internal_error" for a category that is not ours.
[[nodiscard]] std::string wire_code_of(const error_code& code);
[[nodiscard]] std::string_view to_string(Severity severity) noexcept;

/// One line for people: message, then quoted and bounded peer text, then what followed.
[[nodiscard]] std::string to_text(const Failure& failure);

/// Called by Result::value() when there is none: a bug, thrown as std::logic_error.
[[noreturn]] void
throw_exception_from_error(const Failure& failure, const boost::source_location& where);

} // namespace qhup

template <>
struct boost::system::is_error_code_enum<qhup::Errc> : std::true_type {};
