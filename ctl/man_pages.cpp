// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/man_pages.hpp"

#include "common/version.hpp"

#include <algorithm>

namespace qhup::ctl {
namespace {

std::string head(const char* name, const char* section, const char* what) {
    return ".\\\" Made by 'qhupd-ctl __generate'; do not edit.\n.TH " + std::string(name) + " " +
           section + " \"\" \"qhup " + std::string(kVersion) + "\" \"qhup\"\n.SH NAME\n" +
           troff_escaped(name) + " \\- " + troff_escaped(what) + "\n";
}

std::string foot(const std::vector<std::string>& others) {
    std::string text = ".SH SEE ALSO\n";
    for (std::size_t i = 0; i < others.size(); ++i) {
        const std::size_t open = others[i].find('(');
        text += ".BR " + troff_escaped(others[i].substr(0, open)) + " " + others[i].substr(open) +
                (i + 1 < others.size() ? " ,\n" : "\n");
    }
    return text;
}

std::string bold(std::string_view text) {
    return "\\fB" + troff_escaped(text) + "\\fR";
}

std::string italic(std::string_view text) {
    return "\\fI" + troff_escaped(text) + "\\fR";
}

/// "--yes, -y" or "VM…" as it is typed.
std::string term_of(const OptionSpec& option) {
    std::string text;
    for (const std::string& name : option.names) {
        text += (text.empty() ? "" : ", ") + bold(name);
    }
    if (!option.value.empty()) {
        text += (text.empty() ? "" : " ") + italic(option.value);
    }
    return text;
}

std::string list_of(const std::vector<OptionSpec>& options) {
    std::string text;
    for (const OptionSpec& option : options) {
        const bool is_help =
            std::find(option.names.begin(), option.names.end(), "--help") != option.names.end();
        if (!is_help) {
            text += ".TP\n" + term_of(option) + "\n" + troff_escaped(option.help) +
                    (option.is_required ? " (required)" : "") + ".\n";
        }
    }
    return text;
}

std::string synopsis_of(const CommandSpec& command, const std::string& path) {
    std::string text = bold(path);
    for (const OptionSpec& option : command.options) {
        if (!option.names.empty() && option.is_required) {
            text += " " + bold(option.names.front()) + " " + italic(option.value);
        }
    }
    text += " [" + italic("options") + "]";
    for (const OptionSpec& option : command.options) {
        if (option.names.empty()) {
            const std::string word = italic(option.value) + (option.takes_many ? "..." : "");
            text += option.is_required ? " " + word : " [" + word + "]";
        }
    }
    return text;
}

void add_commands(std::string& text, const CommandSpec& of, const std::string& path) {
    for (const CommandSpec& command : of.commands) {
        const std::string below = path + command.name;
        if (!command.commands.empty()) {
            add_commands(text, command, below + " ");
            continue;
        }
        text += ".SS " + troff_escaped(below) + "\n" + synopsis_of(command, "qhupd-ctl " + below) +
                "\n.PP\n" + troff_escaped(command.help) + ".\n" + list_of(command.options);
    }
}

/// Lines as they are, without filling.
std::string verbatim(std::string_view text) {
    std::string lines = ".nf\n";
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        lines += troff_escaped(text.substr(0, end)) + "\n";
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return lines + ".fi\n";
}

std::string example_text(std::string_view lines) {
    return ".PP\n.RS 4\n" + verbatim(lines) + ".RE\n";
}

/// A line of the example that is no sentence: a key, a table, or one of these behind '#'.
bool is_toml(std::string_view line) {
    const std::size_t begin = line.starts_with("# ") ? 2 : 0;
    const std::string_view words = line.substr(begin);
    const std::size_t equals = words.find(" = ");
    return words.starts_with("[") || words.starts_with("  ") ||
           (equals != std::string_view::npos &&
            std::all_of(
                words.begin(),
                words.begin() + static_cast<std::ptrdiff_t>(equals),
                [](char c) { return (c >= 'a' && c <= 'z') || c == '_'; }
            ));
}

/// The file: its comments as paragraphs, which fill the line, and its keys as they are. What is
/// said behind a key stands below it.
std::string keys_of(std::string_view file) {
    std::string text;
    bool is_filling = true;
    const auto fill = [&](bool wanted) {
        if (wanted != is_filling) {
            text += wanted ? ".fi\n" : ".nf\n";
            is_filling = wanted;
        }
    };
    while (!file.empty()) {
        const std::size_t end = std::min(file.find('\n'), file.size());
        const std::string_view line = file.substr(0, end);
        file.remove_prefix(std::min(end + 1, file.size()));
        if (line.empty() || line == "#") {
            fill(true);
            text += ".PP\n";
        } else if (is_toml(line)) {
            fill(false);
            const std::size_t note = line.find("  # ", 2);
            const std::size_t code = line.find_last_not_of(' ', note);
            text += troff_escaped(line.substr(0, code + 1)) + "\n";
            if (note != std::string_view::npos) {
                fill(true);
                text += ".RS 4\n" + troff_escaped(line.substr(note + 4)) + "\n.RE\n";
            }
        } else {
            if (!is_filling) {
                fill(true);
                text += ".PP\n";
            }
            text += troff_escaped(line.substr(line.starts_with("# ") ? 2 : 0)) + "\n";
        }
    }
    fill(true);
    return text;
}

} // namespace

std::string troff_escaped(std::string_view text) {
    std::string escaped;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const bool is_begin = i == 0 || text[i - 1] == '\n';
        if (is_begin && (text[i] == '.' || text[i] == '\'')) {
            escaped += "\\&";
        }
        switch (text[i]) {
        case '\\': escaped += "\\e"; break;
        case '-': escaped += "\\-"; break;
        case '\'': escaped += "\\(aq"; break;
        case '"': escaped += "\\(dq"; break;
        case '`': escaped += "\\(ga"; break;
        case '^': escaped += "\\(ha"; break;
        case '~': escaped += "\\(ti"; break;
        default: escaped += text[i];
        }
    }
    return escaped;
}

std::string make_ctl_page(const CommandSpec& program, std::string_view footer) {
    std::string text = head("qhupd-ctl", "1", "replace QEMU under running VMs");
    text += ".SH SYNOPSIS\n" + bold("qhupd-ctl") + " [" + italic("options") + "] " +
            italic("command") + " ...\n.SH DESCRIPTION\n" +
            troff_escaped("Upgrades the QEMU binary under running VMs of this host, without the "
                          "guests noticing more than a short "
                          "pause, and takes it back if it fails. The work is done by qhupd; this "
                          "program asks it, and shows "
                          "what it does. Ctrl-C, or the end of this program, aborts nothing.") +
            "\n.PP\n" +
            troff_escaped("What pauses guests shows its plan on a terminal and asks; elsewhere it "
                          "needs --yes. Values go to standard "
                          "output, progress and words about problems to standard error.") +
            "\n.SH OPTIONS\nThey stand before or behind the command.\n" + list_of(program.options) +
            ".SH COMMANDS\n";
    add_commands(text, program, "");
    text += ".SH EXIT STATUS\n" +
            verbatim(footer.substr(std::min(footer.find('\n') + 1, footer.size())));
    text += ".SH ENVIRONMENT\n.TP\n" + bold("QHUPD_SOCKET") +
            "\nThe daemon\\(aqs socket, as \\-\\-socket.\n.TP\n" + bold("NO_COLOR") +
            "\nIf it is set, nothing has colors.\n.TP\n" + bold("TERM") +
            "\nWith \\(lqdumb\\(rq nothing is drawn again.\n";
    text += ".SH FILES\n.TP\n/run/qhupd/qhupd.sock\nthe socket of those who may act\n.TP\n" +
            troff_escaped("/run/qhupd/qhupd-ro.sock") +
            "\nthe socket of those who may only look; used by itself if no socket is named and the "
            "other one may not be opened\n.SH EXAMPLES\n"
            "What would be refused, and why; then one VM, and with canaries the others:\n" +
            example_text("qhupd-ctl check --all --to deb13\n"
                         "qhupd-ctl upgrade vm1 --to deb13\n"
                         "qhupd-ctl upgrade --all --to deb13 --canaries 2 --soak 30min\n") +
            ".PP\nBack to the binary that it came from:\n" +
            example_text("qhupd-ctl revert vm1\n") + ".PP\nIn a script:\n" +
            example_text("qhupd-ctl --json upgrade --all --to deb13 --yes --request-id job-7\n");
    return text + foot({"qhupd(8)", "qhupd.toml(5)", "qhup-codes(7)"});
}

std::string make_daemon_page(std::string_view help) {
    std::string text = head("qhupd", "8", "daemon that replaces QEMU under running VMs");
    text += ".SH SYNOPSIS\n";
    std::string options;
    std::string other;
    bool is_option = false;
    while (!help.empty()) {
        const std::size_t end = std::min(help.find('\n'), help.size());
        std::string line(help.substr(0, end));
        help.remove_prefix(std::min(end + 1, help.size()));
        const std::size_t begin = line.find_first_not_of(' ');
        if (line.starts_with("Usage: ")) {
            text += troff_escaped(line.substr(7)) + "\n.SH DESCRIPTION\n";
        } else if (line.starts_with("  --")) {
            const std::size_t gap = line.find("  ", begin);
            const std::size_t words =
                gap == std::string::npos ? gap : line.find_first_not_of(' ', gap);
            // the text may be one space behind a long option
            const std::size_t split = words == std::string::npos ? line.find(' ', begin) : gap;
            options += ".TP\n" + bold(line.substr(begin, split - begin)) + "\n" +
                       troff_escaped(line.substr(words == std::string::npos ? split + 1 : words)) +
                       "\n";
            is_option = true;
        } else if (is_option && begin != std::string::npos && begin >= 10) {
            options += troff_escaped(line.substr(begin)) + "\n";
        } else if (line.starts_with("Exit status: ")) {
            other += ".SH EXIT STATUS\n" + troff_escaped(line.substr(13)) + ".\n";
            is_option = false;
        } else if (!line.empty()) {
            text += troff_escaped(line) + "\n";
        }
    }
    return text + ".SH OPTIONS\n" + options + other +
           ".SH SIGNALS\n.TP\nSIGTERM\nEnds it: VMs that are not paused yet are left alone, the "
           "others are finished.\n"
           ".TP\nSIGHUP\nReads the configuration again; a bad one is not taken.\n" +
           foot({"qhupd-ctl(1)", "qhupd.toml(5)", "qhup-codes(7)"});
}

std::string make_config_page(std::string_view example) {
    std::string text = head("qhupd.toml", "5", "configuration of qhupd");
    text += ".SH SYNOPSIS\n/usr/lib/qhupd/qhupd.toml\n.br\n/usr/lib/qhupd/qhupd.toml.d/*.toml\n"
            ".br\n/etc/qhupd/qhupd.toml\n.br\n/etc/qhupd/qhupd.toml.d/*.toml\n"
            ".br\n/run/qhupd/qhupd.toml\n.br\n/run/qhupd/qhupd.toml.d/*.toml\n.SH DESCRIPTION\n" +
            troff_escaped("TOML. None of the files must be there: everything has a default. Of two "
                          "files that set the same key the "
                          "later one counts. An unknown key or a bad value is an error with file, "
                          "line and the nearest known "
                          "key; 'qhupd --check-config' says what is wrong, 'qhupd-ctl config show "
                          "--origin' what holds and why.") +
            "\n.PP\nThe file below has every key with its default, and explains it.\n.SH KEYS\n" +
            keys_of(example) +
            ".SH FILES\n.TP\n/usr/lib/qhupd\nof packages\n.TP\n/etc/qhupd\nof this host\n.TP\n"
            "/run/qhupd\nuntil the next boot\n.TP\n/etc/qhupd/releases.d/*.toml\n"
            "releases, one file for each\n" +
            ".SH EXAMPLES\nA shorter pause for VMs whose names begin with db:\n" +
            example_text("[[policy]]\nvms = [\"db-*\"]\npause_budget = \"50ms\"\n") +
            ".PP\nA release, as /etc/qhupd/releases.d/deb13.toml:\n" +
            example_text("path = \"/opt/qemu-10.0/bin/qemu-system-x86_64\"\n"
                         "firmware = [\"/opt/qemu-10.0/share/qemu\"]\n");
    return text + foot({"qhupd(8)", "qhupd-ctl(1)"});
}

std::string make_codes_page(const std::vector<ManualEntry>& entries) {
    std::string text = head("qhup-codes", "7", "what qhupd says, and what to do about it");
    text +=
        ".SH DESCRIPTION\n" +
        troff_escaped(
            "Codes never change; programs branch on them. 'qhupd-ctl explain CODE' prints the same."
        ) +
        "\n";
    for (const Topic topic :
         {Topic::upgrade, Topic::request, Topic::outcome, Topic::blocker, Topic::phase}) {
        text += ".SH \"" + troff_escaped(heading_of(topic)) + "\"\n";
        for (const ManualEntry& entry : entries) {
            if (entry.topic != topic) {
                continue;
            }
            text += ".TP\n" + bold(entry.name) +
                    (entry.kind.empty() ? "" : " (" + troff_escaped(entry.kind) + ")") + "\n" +
                    troff_escaped(entry.text) + "\n";
            if (const std::string guest = guest_after(entry); topic == Topic::upgrade) {
                text += troff_escaped(guest) + "\n";
            }
            for (const std::string& detail : entry.details) {
                text += ".IP\n" + troff_escaped(detail) + ".\n";
            }
        }
    }
    return text + foot({"qhupd-ctl(1)", "qhupd(8)"});
}

} // namespace qhup::ctl
