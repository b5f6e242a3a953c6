// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/completion.hpp"

#include <algorithm>

namespace qhup::ctl {
namespace {

constexpr std::string_view kBash =
    R"sh(# bash completion for qhupd-ctl                             -*- shell-script -*-
_qhupd_ctl()
{
    local line word cut
    local -a words=()
    COMPREPLY=()
    # bash has split the words at "=", and replaces only what is behind the last one
    for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
        if [[ ${#words[@]} -gt 0 && ( $word == "=" || ${words[-1]} == *"=" ) ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
    done
    word=${COMP_WORDS[COMP_CWORD]}
    [[ $word == "=" ]] && word=
    cut=${words[-1]%"$word"}
    while IFS= read -r line; do
        line=${line%%$'\t'*}
        COMPREPLY+=("$(printf '%q' "${line#"$cut"}")")
    done < <("${COMP_WORDS[0]}" __complete "${words[@]}" 2>/dev/null)
}
complete -o default -F _qhupd_ctl qhupd-ctl
)sh";

constexpr std::string_view kZsh = R"sh(#compdef qhupd-ctl
_qhupd-ctl() {
    local -a found
    local line word
    for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        word=${line%%$'\t'*}
        [[ -n $word ]] && found+=("${word//:/\\:}:${${line#$word}#$'\t'}")
    done
    if (( $#found )); then
        _describe 'qhupd-ctl' found
    else
        _files
    fi
}
if [[ $funcstack[1] == _qhupd-ctl ]]; then
    _qhupd-ctl "$@"
else
    compdef _qhupd-ctl qhupd-ctl
fi
)sh";

constexpr std::string_view kFish = R"sh(# fish completion for qhupd-ctl
function __qhupd_ctl_complete
    set -l words (commandline -opc) (commandline -ct)
    $words[1] __complete $words[2..-1] 2>/dev/null
end
complete -c qhupd-ctl -f -a '(__qhupd_ctl_complete)'
)sh";

const OptionSpec* find_option(const CommandSpec& command, const std::string& name) {
    for (const OptionSpec& option : command.options) {
        if (std::find(option.names.begin(), option.names.end(), name) != option.names.end()) {
            return &option;
        }
    }
    return nullptr;
}

LiveNames names_for(const CommandSpec& command, const std::string& value) {
    if (value == "VM") {
        return command.name == "revert" ? LiveNames::vms_or_moves : LiveNames::vms;
    }
    if (value == "KEY=VALUE") {
        return LiveNames::labels;
    }
    if (value == "RUN") {
        return LiveNames::runs;
    }
    if (value == "RELEASE") {
        return LiveNames::releases;
    }
    return value == "CODE" ? LiveNames::codes : LiveNames::none;
}

void add(std::vector<Candidate>& candidates, const std::string& typed, Candidate candidate) {
    if (candidate.word.starts_with(typed)) {
        candidates.push_back(std::move(candidate));
    }
}

void add_options(
    std::vector<Candidate>& candidates, const std::string& typed, const CommandSpec& of
) {
    for (const OptionSpec& option : of.options) {
        for (const std::string& name : option.names) {
            if (name.starts_with("--")) {
                add(candidates, typed, {name, option.help});
            }
        }
    }
}

/// What was typed before the word at the end.
struct Position {
    const CommandSpec* command;           ///< the innermost one
    const OptionSpec* awaiting = nullptr; ///< the option whose value comes now
    std::size_t places = 0;               ///< words that stand for themselves so far
};

Position find_position(const CommandSpec& program, const std::vector<std::string>& words) {
    Position at{&program};
    for (std::size_t i = 0; i + 1 < words.size(); ++i) {
        const std::string& word = words[i];
        if (at.awaiting != nullptr) {
            at.awaiting = nullptr;
            continue;
        }
        if (word.starts_with("-")) {
            const OptionSpec* option = find_option(*at.command, word);
            option = option == nullptr ? find_option(program, word) : option;
            at.awaiting = option != nullptr && !option->value.empty() ? option : nullptr;
            continue;
        }
        const auto below = std::find_if(
            at.command->commands.begin(),
            at.command->commands.end(),
            [&word](const CommandSpec& command) { return command.name == word; }
        );
        if (below != at.command->commands.end()) {
            at.command = &*below;
        } else {
            ++at.places;
        }
    }
    return at;
}

} // namespace

Completion complete(const CommandSpec& program, const std::vector<std::string>& words) {
    Completion found;
    const std::string typed = words.empty() ? "" : words.back();
    const Position at = find_position(program, words);
    const auto add_values = [&found, &typed, &at](const OptionSpec& option) {
        for (const std::string& word : option.words) {
            add(found.candidates, typed, {word, ""});
        }
        found.live = names_for(*at.command, option.value);
    };
    if (at.awaiting != nullptr) {
        add_values(*at.awaiting);
        return found;
    }
    if (const std::size_t equals = typed.find('=');
        typed.starts_with("--") && equals != std::string::npos) {
        const std::string name = typed.substr(0, equals);
        const OptionSpec* option = find_option(*at.command, name);
        option = option == nullptr ? find_option(program, name) : option;
        if (option == nullptr || option->value.empty()) {
            return found;
        }
        found.prefix = name + "=";
        for (const std::string& word : option->words) {
            add(found.candidates, typed, {found.prefix + word, ""});
        }
        found.live = names_for(*at.command, option->value);
        return found;
    }
    if (typed.starts_with("-")) {
        add_options(found.candidates, typed, *at.command);
        if (at.command != &program) {
            add_options(found.candidates, typed, program);
        }
        // why: every command has the same --help, which would come twice.
        std::vector<Candidate> once;
        for (Candidate& candidate : found.candidates) {
            const bool is_there = std::any_of(once.begin(), once.end(), [&](const Candidate& one) {
                return one.word == candidate.word;
            });
            if (!is_there) {
                once.push_back(std::move(candidate));
            }
        }
        found.candidates = std::move(once);
        return found;
    }
    for (const CommandSpec& command : at.command->commands) {
        add(found.candidates, typed, {command.name, command.help});
    }
    for (const OptionSpec& option : at.command->options) {
        if (option.names.empty() && (option.takes_many || at.places == 0)) {
            add_values(option);
        }
    }
    return found;
}

std::string_view completion_script(std::string_view shell) noexcept {
    if (shell == "bash") {
        return kBash;
    }
    return shell == "zsh" ? kZsh : kFish;
}

} // namespace qhup::ctl
