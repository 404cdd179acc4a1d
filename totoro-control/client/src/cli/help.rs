//! `--help` in Chinese: the same command line, other words. A test has every word.

use std::ffi::OsString;

use clap::Command;

use crate::lang::{Lang, of_system};

/// What a command is for.
const COMMANDS: &[(&str, &str)] = &[
    (
        "totoro",
        "一条命令建立隧道：邀请码或公共节点，加上原版 frpc",
    ),
    ("tcp", "暴露 TCP 服务"),
    ("udp", "暴露 UDP 服务"),
    (
        "connect",
        "按文件暴露服务：含 [[proxies]] 的 TOML，或随邀请得到的 frpc.toml",
    ),
    ("nodes", "公共节点：位置、延迟、负载；优者在前"),
    ("status", "你的所有 totoro 程序正在运行的隧道"),
    ("usage", "邀请的上限、已用与剩余"),
    ("doctor", "检查从本机到隧道的每一环，或解释一个原因"),
    ("test", "建立通往内置回显的隧道，并经其公网地址测量"),
    ("serve", "在本机提供网页与 API：点几下即可建立隧道"),
];

/// What an option or argument is for, by its name; the same in all commands that have it.
const ARGUMENTS: &[(&str, &str)] = &[
    ("control", "控制面地址；默认为已记住的地址"),
    (
        "insecure_http",
        "允许以明文 HTTP 向其他机器发送邀请码，仅限封闭网络",
    ),
    (
        "invite_file",
        "邀请码文件，权限 0600（或用 TOTORO_INVITE 提供邀请码）",
    ),
    ("remember", "记住邀请码与控制面，保存在仅你可读的文件中"),
    ("frpc", "要运行的 frpc；默认为 PATH 中的第一个"),
    ("json", "输出 JSON：一个对象，或每个事件一行"),
    ("lang", "语言；默认随系统区域设置"),
    ("services", "服务：本机端口，或 主机:端口"),
    ("node", "公共节点名称：无需邀请码"),
    (
        "remote_port",
        "公网端口；多个服务时按顺序各给一个。默认由节点选择并保持不变",
    ),
    (
        "file",
        "含 [[proxies]]（type、local、remote_port、name）的 TOML，或控制面生成的 frpc.toml",
    ),
    ("region", "仅此地区"),
    ("isp", "仅此网络"),
    ("top", "仅最佳的若干个"),
    (
        "reason",
        "要解释的原因：代码（max_proxies）、编号，或 frpc 输出的那一行",
    ),
    (
        "listen",
        "监听地址；若超出回环，来者须出示令牌，且令牌以明文传输",
    ),
    (
        "name",
        "除地址与 localhost 外，可用以访问的名称；可多次给出",
    ),
    ("restore", "立即打开上次的隧道，不再询问"),
];

/// After the help of all commands together.
const AFTER: &str = "\
示例：
  totoro tcp 22                          暴露 ssh；会询问邀请码，不回显
  totoro tcp 22 8080 nas.local:445       同时暴露多个
  totoro udp 53 --node 名称              使用公共节点，无需邀请码
  totoro connect tunnels.toml            按文件暴露；控制面的 frpc.toml 亦可
  totoro nodes                           公共节点，优者在前
  totoro doctor                          哪里有问题、该怎么办
  totoro serve                           以上一切的网页，位于 http://127.0.0.1:7400/

邀请码来自 TOTORO_INVITE、--invite-file 或不回显的输入，绝不来自命令行。

退出码：0 成功，1 被拒绝或失败，2 用法错误，3 无法连接，4 邀请码无效。";

/// The layout, with its headings.
const TEMPLATE: &str = "{about}\n\n用法：{usage}\n\n{all-args}{after-help}";

/// The language that a command line asks for, before it is read: its help is part of it.
pub(super) fn asked(words: impl IntoIterator<Item = OsString>) -> Lang {
    let mut words = words
        .into_iter()
        .map(|word| word.to_string_lossy().into_owned());
    let mut said = std::env::var("TOTORO_LANG").ok();
    while let Some(word) = words.next() {
        match word.strip_prefix("--lang") {
            Some("") => said = words.next(),
            Some(rest) => said = rest.strip_prefix('=').map(str::to_owned).or(said),
            None => {}
        }
    }
    match said.as_deref() {
        Some("zh") => Lang::Zh,
        Some("en") => Lang::En,
        _ => of_system(),
    }
}

/// The command line in this language.
pub(super) fn spoken(command: Command, lang: Lang) -> Command {
    match lang {
        Lang::En => command,
        Lang::Zh => chinese(command).after_help(AFTER),
    }
}

fn chinese(command: Command) -> Command {
    let of = |table: &[(&'static str, &'static str)], name: &str| {
        table
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, text)| *text)
    };
    let about = of(COMMANDS, command.get_name());
    let mut command = command
        .mut_args(|arg| match of(ARGUMENTS, arg.get_id().as_str()) {
            Some(text) => {
                let heading = if arg.is_positional() {
                    "参数"
                } else {
                    "选项"
                };
                arg.help(text).help_heading(heading)
            }
            None => arg,
        })
        .subcommand_help_heading("命令")
        .help_template(TEMPLATE);
    if let Some(about) = about {
        command = command.about(about);
    }
    if let Some(after) = command.get_after_help() {
        let after = after.to_string().replace("Examples:", "示例：");
        command = command.after_help(after);
    }
    command.mut_subcommands(chinese)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_its_other() {
        let mut all = vec![super::super::command()];
        let mut used = Vec::new();
        while let Some(command) = all.pop() {
            let name = command.get_name().to_owned();
            assert!(COMMANDS.iter().any(|(known, _)| *known == name), "{name}");
            used.push(name);
            for arg in command.get_arguments() {
                let name = arg.get_id().as_str().to_owned();
                if !matches!(name.as_str(), "help" | "version") {
                    assert!(ARGUMENTS.iter().any(|(known, _)| *known == name), "{name}");
                    used.push(name);
                }
            }
            all.extend(command.get_subcommands().cloned());
        }
        let mut spoken_to = spoken(super::super::command(), Lang::Zh);
        let tcp = spoken_to.find_subcommand_mut("tcp").unwrap();
        let help = tcp.render_long_help().to_string();
        assert!(help.contains("示例：\n  totoro tcp 22"), "{help}");
        for (name, _) in COMMANDS.iter().chain(ARGUMENTS) {
            assert!(used.iter().any(|used| used == name), "{name} is no more");
        }
        let help = spoken(super::super::command(), Lang::Zh)
            .render_long_help()
            .to_string();
        assert!(
            help.contains("用法：") && help.contains("命令:") && help.contains("暴露 TCP 服务"),
            "{help}"
        );
    }

    #[test]
    fn the_language_is_known_before_the_rest() {
        let of = |words: &[&str]| asked(words.iter().map(OsString::from));
        assert_eq!(of(&["totoro", "--lang", "zh", "--help"]), Lang::Zh);
        assert_eq!(of(&["totoro", "tcp", "--lang=en", "x"]), Lang::En);
        assert_eq!(of(&["totoro", "--lang=zh", "--lang"]), of(&["totoro"]));
    }
}
