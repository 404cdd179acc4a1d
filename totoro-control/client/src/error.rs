//! What can go wrong, each with its next step in both languages. No variant holds a secret.

use std::path::PathBuf;

use totoro_api::code::BadCode;

use crate::lang::{Lang, say};
use crate::told::Told;

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// What was asked for makes no sense; the text says why, in the language it was made in.
    Usage(String),
    /// No control plane is known.
    NoControl,
    /// The control plane's address is no URL.
    BadControl(String),
    /// The code would travel in the clear to another machine.
    InsecureHttp(String),
    /// There is no invite code, and nobody who could be asked for it.
    NoCode,
    /// The invite code is none.
    BadCode(BadCode),
    /// The control plane does not answer.
    Unreachable {
        /// Its address.
        url: String,
        /// Why.
        cause: String,
    },
    /// The control plane answered what no control plane answers.
    Nonsense {
        /// Its address.
        url: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// It was refused.
    Refused(Box<Told>),
    /// There is no frpc.
    FrpcMissing,
    /// frpc is older than what works.
    FrpcOld {
        /// Where it is.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// frpc can't be run, or ends at once.
    FrpcFails {
        /// Where it is.
        path: PathBuf,
        /// What it said.
        said: String,
    },
    /// A file or directory can't be used.
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A secret's file can be read by others.
    Loose(PathBuf),
    /// A program of this user's exposes the same already.
    Runs {
        /// Its process id.
        pid: u32,
        /// The proxy's name.
        proxy: String,
    },
    /// The tunnel's public address does not do what it should.
    Canary(String),
}

/// The oldest frpc that works, as people write it.
pub const OLDEST_FRPC: &str = "0.61";

impl Error {
    /// A refusal.
    #[must_use]
    pub fn refused(told: Told) -> Self {
        Error::Refused(Box::new(told))
    }

    /// A file's error.
    pub(crate) fn file(path: impl Into<PathBuf>, cause: impl std::fmt::Display) -> Self {
        Error::File {
            path: path.into(),
            cause: cause.to_string(),
        }
    }

    /// 1 refused or failed, 2 usage, 3 not reached, 4 not authorised.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::NoControl | Error::BadControl(_) => 2,
            Error::InsecureHttp(_) | Error::NoCode | Error::BadCode(_) => 2,
            Error::Unreachable { .. } => 3,
            Error::Refused(told) => refused_code(told),
            _ => 1,
        }
    }

    /// What happened, one line.
    #[must_use]
    pub fn what(&self, lang: Lang) -> String {
        match self {
            Error::Usage(text) => text.clone(),
            Error::NoControl => say!(lang, "no control plane is named", "未指定控制面地址"),
            Error::BadControl(url) => say!(
                lang,
                "{url:?} is no control plane's address",
                "{url:?} 不是有效的控制面地址"
            ),
            Error::InsecureHttp(url) => say!(
                lang,
                "{url} is neither https nor this machine: the invite code would travel in the clear",
                "{url} 既不是 https 也不是本机：邀请码会以明文传输"
            ),
            Error::NoCode => say!(lang, "there is no invite code", "没有邀请码"),
            Error::BadCode(BadCode::Malformed) => say!(
                lang,
                "that is no invite code: one is tn1- followed by 21 letters and digits",
                "这不是邀请码：邀请码是 tn1- 加 21 个字母数字"
            ),
            Error::BadCode(BadCode::Typo) => say!(
                lang,
                "the invite code has a typing error: its check symbol does not fit",
                "邀请码有输入错误：校验位不符"
            ),
            Error::Unreachable { url, cause } => say!(
                lang,
                "cannot reach {url}: {cause}",
                "无法连接 {url}：{cause}"
            ),
            Error::Nonsense { url, problem } => say!(
                lang,
                "{url} answered what no control plane answers: {problem}",
                "{url} 的应答不像控制面：{problem}"
            ),
            Error::Refused(told) => told.what(lang),
            Error::FrpcMissing => say!(lang, "there is no frpc in PATH", "PATH 中没有 frpc"),
            Error::FrpcOld { path, version } => say!(
                lang,
                "{} is frpc {version}, older than {OLDEST_FRPC}, which is the oldest that works",
                "{} 是 frpc {version}，低于可用的最低版本 {OLDEST_FRPC}",
                path.display()
            ),
            Error::FrpcFails { path, said } => say!(
                lang,
                "{} does not run: {said}",
                "{} 无法运行：{said}",
                path.display()
            ),
            Error::File { path, cause } => {
                say!(lang, "{}: {cause}", "{}：{cause}", path.display())
            }
            Error::Loose(path) => say!(
                lang,
                "{} can be read by others",
                "{} 可被其他用户读取",
                path.display()
            ),
            Error::Runs { pid, proxy } => say!(
                lang,
                "{proxy} runs already, in process {pid}",
                "{proxy} 已在进程 {pid} 中运行"
            ),
            Error::Canary(problem) => problem.clone(),
        }
    }

    /// What to do next, one line.
    #[must_use]
    pub fn next(&self, lang: Lang) -> String {
        match self {
            Error::Usage(_) => say!(lang, "see totoro --help", "参见 totoro --help"),
            Error::NoControl | Error::BadControl(_) => say!(
                lang,
                "give --control https://… or set TOTORO_CONTROL; whoever gave you the code knows it",
                "请用 --control https://… 或环境变量 TOTORO_CONTROL 指定；给你邀请码的人知道该地址"
            ),
            Error::InsecureHttp(_) => say!(
                lang,
                "use https, or on a closed network say --insecure-http",
                "请使用 https；仅在封闭网络中可加 --insecure-http"
            ),
            Error::NoCode => say!(
                lang,
                "set TOTORO_INVITE, give --invite-file FILE, run at a terminal to be asked, or use a public node: --node NAME",
                "请设置 TOTORO_INVITE、用 --invite-file 文件、在终端中运行以便输入，或用 --node 名称 使用公共节点"
            ),
            Error::BadCode(_) => say!(lang, "copy the whole code again", "请重新完整复制邀请码"),
            Error::Unreachable { .. } => say!(
                lang,
                "check the address and the network; totoro doctor looks closer",
                "请检查地址与网络；totoro doctor 可进一步诊断"
            ),
            Error::Nonsense { .. } => say!(
                lang,
                "check the control plane's address",
                "请核对控制面地址"
            ),
            Error::Refused(told) => told.next(lang),
            Error::FrpcMissing => say!(
                lang,
                "install frp {OLDEST_FRPC} or newer (github.com/fatedier/frp/releases), or name it: --frpc FILE",
                "请安装 frp {OLDEST_FRPC} 或更新版本（github.com/fatedier/frp/releases），或用 --frpc 文件 指定"
            ),
            Error::FrpcOld { .. } => say!(
                lang,
                "install a newer one, or name another: --frpc FILE",
                "请安装更新的版本，或用 --frpc 文件 指定另一个"
            ),
            Error::FrpcFails { .. } => say!(
                lang,
                "try it by hand (frpc -v), or name another: --frpc FILE",
                "请手动试运行（frpc -v），或用 --frpc 文件 指定另一个"
            ),
            Error::File { .. } => say!(
                lang,
                "check the path and its permissions",
                "请检查路径与权限"
            ),
            Error::Loose(path) => say!(
                lang,
                "keep it to yourself: chmod 600 {}",
                "请仅限自己读取：chmod 600 {}",
                path.display()
            ),
            Error::Runs { .. } => say!(
                lang,
                "totoro status shows it; stop it first, or give this one another name in a file of totoro connect",
                "totoro status 可查看；请先停止它，或在 totoro connect 的文件中另取名称"
            ),
            Error::Canary(_) => say!(
                lang,
                "totoro doctor looks closer; the node's operator can see more",
                "totoro doctor 可进一步诊断；节点管理员能看到更多"
            ),
        }
    }
}

/// The exit code of a refusal: 4 where a code or ticket is not good, else 1.
#[must_use]
pub fn refused_code(told: &Told) -> u8 {
    use totoro_api::Reason as R;
    match told.reason() {
        Some(R::NotAuthorized | R::InviteUnknown | R::InviteRevoked | R::InviteExpired) => 4,
        _ => 1,
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.what(Lang::En), self.next(Lang::En))
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use totoro_api::Reason;

    #[test]
    fn each_is_told_in_both_languages_with_a_next_step() {
        let (url, path, text) = (
            "https://c".to_owned(),
            PathBuf::from("/x"),
            "why".to_owned(),
        );
        for (error, code) in [
            (Error::NoControl, 2),
            (Error::BadControl(url.clone()), 2),
            (Error::InsecureHttp(url.clone()), 2),
            (Error::NoCode, 2),
            (Error::BadCode(BadCode::Malformed), 2),
            (Error::BadCode(BadCode::Typo), 2),
            (
                Error::Unreachable {
                    url: url.clone(),
                    cause: text.clone(),
                },
                3,
            ),
            (
                Error::Nonsense {
                    url,
                    problem: text.clone(),
                },
                1,
            ),
            (Error::refused(Reason::InviteRevoked.into()), 4),
            (Error::refused(Reason::MaxClients.into()), 1),
            (Error::FrpcMissing, 1),
            (
                Error::FrpcOld {
                    path: path.clone(),
                    version: text.clone(),
                },
                1,
            ),
            (
                Error::FrpcFails {
                    path: path.clone(),
                    said: text.clone(),
                },
                1,
            ),
            (Error::Loose(path.clone()), 1),
            (
                Error::Runs {
                    pid: 1,
                    proxy: text.clone(),
                },
                1,
            ),
        ] {
            assert_eq!(error.exit_code(), code, "{error}");
            assert_ne!(error.what(Lang::En), error.what(Lang::Zh), "{error}");
            assert_ne!(error.next(Lang::En), error.next(Lang::Zh), "{error}");
        }
        let file = Error::file(path, text);
        assert_ne!(file.next(Lang::En), file.next(Lang::Zh));
    }
}
