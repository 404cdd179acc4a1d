//! What frpc's log says. The texts are frpc's own and the same in 0.61, 0.65 and 0.70 (the end-to-end
//! tests run all three).

/// The longest line that is looked at, bytes: a refusal is far shorter.
pub const MAX_LINE: usize = 8192;

/// A line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// It tries to log in.
    Connecting,
    /// It is logged in.
    LoggedIn,
    /// It could not log in, and tries again later by itself.
    LoginFailed(String),
    /// A proxy runs.
    ProxyUp(String),
    /// A proxy was refused; it is asked for again in 30 s.
    ProxyFailed(String, String),
    /// Nothing answers at the local service.
    LocalFailed(String),
    /// Anything else.
    Other,
}

/// Understands a line.
#[must_use]
pub fn read(line: &str) -> Line {
    // After `2026-01-01 00:00:00.000 [I] [client/service.go:1] [run id] `.
    let after = |mark: &str| line.split_once(mark).map(|(_, rest)| rest.trim());
    if let Some(why) = after("] connect to server error: ") {
        return Line::LoginFailed(why.to_owned());
    }
    if let Some((before, why)) = line.split_once("] start error: ") {
        return Line::ProxyFailed(last_bracket(before), why.trim().to_owned());
    }
    if let Some(rest) = after("] connect to local service [") {
        return Line::LocalFailed(rest.replacen("] error: ", ": ", 1));
    }
    if let Some(before) = line.trim_end().strip_suffix("] start proxy success") {
        return Line::ProxyUp(last_bracket(before));
    }
    if after("] login to server success, ").is_some() {
        return Line::LoggedIn;
    }
    if after("] try to connect to server...").is_some() {
        return Line::Connecting;
    }
    Line::Other
}

/// What stands after the last `[`.
fn last_bracket(text: &str) -> String {
    text.rsplit('[').next().unwrap_or_default().to_owned()
}

/// A name without `user.` before it.
#[must_use]
pub fn bare<'a>(name: &'a str, user: &str) -> &'a str {
    name.strip_prefix(user)
        .and_then(|rest| rest.strip_prefix('.'))
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_real_frpc() {
        let head = "2026-11-28 13:42:13.266 [W] [client/service.go:322] ";
        let of = |rest: &str| read(&format!("{head}{rest}"));
        assert_eq!(of("try to connect to server..."), Line::Connecting);
        assert_eq!(of("[abc] try to connect to server..."), Line::Connecting);
        assert_eq!(
            of("login to server success, get run id [abc]"),
            Line::LoggedIn
        );
        assert_eq!(
            of("connect to server error: dial tcp 127.0.0.1:1: connect: connection refused"),
            Line::LoginFailed("dial tcp 127.0.0.1:1: connect: connection refused".to_owned())
        );
        assert_eq!(
            of("[abc] [inv-1.box-tcp-22] start proxy success"),
            Line::ProxyUp("inv-1.box-tcp-22".to_owned())
        );
        let told = "totoro[port_denied]: the port [5] is not one; choose another";
        assert_eq!(
            of(&format!("[abc] [box-tcp-22] start error: {told}")),
            Line::ProxyFailed("box-tcp-22".to_owned(), told.to_owned())
        );
        assert_eq!(
            of("[abc] [x] connect to local service [127.0.0.1:22] error: dial tcp: refused"),
            Line::LocalFailed("127.0.0.1:22: dial tcp: refused".to_owned())
        );
        assert_eq!(of("http request: [/api/status]"), Line::Other);
        assert_eq!(read(""), Line::Other);
        assert_eq!(bare("inv-1.a", "inv-1"), "a");
        assert_eq!(bare("a", "inv-1"), "a");
    }
}
