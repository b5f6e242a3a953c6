// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/log_fields.hpp"

#include <utility>

namespace qhup {
namespace {

const std::vector<LogField> kNoFields;
thread_local const std::vector<LogField>* t_fields = &kNoFields;

} // namespace

LogFields::LogFields(std::vector<LogField> fields) : fields_(std::move(fields)), outer_(t_fields) {
    t_fields = &fields_;
}

LogFields::~LogFields() {
    t_fields = outer_;
}

const std::vector<LogField>& LogFields::current() noexcept {
    return *t_fields;
}

} // namespace qhup
