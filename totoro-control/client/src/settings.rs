//! What is kept from one run to the next, if the person says so, and what `connect FILE` reads.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::invite::{self, Given, line_of};
use crate::lang::{Lang, say};
use crate::private;
use crate::target::Wanted;

/// What is remembered, in a file that only its owner reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Remembered {
    /// The control plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<String>,
    /// Whether it may be asked over plain HTTP.
    pub insecure_http: bool,
    /// The invite code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invite: Option<String>,
}

impl Remembered {
    /// Where it lies.
    ///
    /// # Errors
    /// There is no home.
    pub fn path() -> Result<PathBuf, Error> {
        Ok(private::config_dir()?.join("remembered.toml"))
    }

    /// What is remembered; nothing where there is no file.
    ///
    /// # Errors
    /// The file can be read by others, or by nobody.
    pub fn load(lang: Lang) -> Result<Self, Error> {
        let Ok(path) = Remembered::path() else {
            return Ok(Remembered::default());
        };
        if !path.exists() {
            return Ok(Remembered::default());
        }
        read_toml(&path, &private::read_secret(&path)?, lang)
    }

    /// Keeps it, 0600; where.
    ///
    /// # Errors
    /// It can't be written.
    pub fn save(&self) -> Result<PathBuf, Error> {
        private::own_dir(&private::config_dir()?)?;
        let path = Remembered::path()?;
        let text = toml::to_string(self).map_err(|error| Error::file(&path, error))?;
        private::write(&path, &text)?;
        Ok(path)
    }
}

/// A file of `totoro connect`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    control: Option<String>,
    node: Option<String>,
    invite_file: Option<PathBuf>,
    proxies: Vec<Wanted>,
}

/// What such a file asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The control plane.
    pub control: Option<String>,
    /// The way in.
    pub source: Option<crate::Source>,
    /// The file with the code.
    pub invite_file: Option<PathBuf>,
    /// What is exposed.
    pub wanted: Vec<Wanted>,
}

/// Reads a file of ours, or an frpc.toml as the control plane makes it.
///
/// # Errors
/// It is neither, or has a code in it and can be read by others.
pub fn read_file(path: &Path, lang: Lang) -> Result<Asked, Error> {
    let (_, text) = private::read(path)?;
    if invite::looks_like_frpc(&text) {
        let Given {
            source,
            control,
            wanted,
        } = invite::read_frpc(&private::read_secret(path)?, lang)?;
        return Ok(Asked {
            control,
            source: Some(source),
            invite_file: None,
            wanted,
        });
    }
    read_text(path, &text, lang)
}

/// Reads the text of a file of ours.
///
/// # Errors
/// It is none.
pub fn read_text(path: &Path, text: &str, lang: Lang) -> Result<Asked, Error> {
    let file: File = read_toml(path, text, lang)?;
    Ok(Asked {
        control: file.control,
        source: file.node.map(crate::Source::Public),
        invite_file: file.invite_file,
        wanted: file.proxies,
    })
}

fn read_toml<T: serde::de::DeserializeOwned>(
    path: &Path,
    text: &str,
    lang: Lang,
) -> Result<T, Error> {
    toml::from_str(text).map_err(|error| {
        let (line, problem) = (line_of(text, error.span()), error.message());
        let path = path.display();
        Error::Usage(say!(
            lang,
            "{path}, line {line}: {problem}",
            "{path} 第 {line} 行：{problem}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;
    use crate::target::Local;
    use totoro_api::ports::Protocol;

    fn read(text: &str) -> Result<Asked, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        std::fs::write(&path, text).unwrap();
        read_file(&path, Lang::En)
    }

    #[test]
    fn a_file_of_ours() {
        let asked = read(
            "control = \"https://c\"\nnode = \"n1\"\n\
             [[proxies]]\ntype = \"tcp\"\nlocal = 22\n\
             [[proxies]]\nname = \"dns\"\ntype = \"udp\"\nlocal = \"10.0.0.1:53\"\nremote_port = 20053\n",
        )
        .unwrap();
        assert_eq!(asked.source, Some(Source::Public("n1".to_owned())));
        assert_eq!(asked.wanted[0].local, Local::Port(22));
        assert_eq!(asked.wanted[1].protocol, Protocol::Udp);
        assert_eq!(asked.wanted[1].remote_port, 20_053);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, named) in [
            (
                "proxies = []\nnodes = \"x\"\n",
                "line 2: unknown field `nodes`",
            ),
            (
                "[[proxies]]\ntype = \"stcp\"\nlocal = 1\n",
                "line 2: unknown variant `stcp`",
            ),
            ("node = \"x\"\n", "missing field `proxies`"),
            ("[[proxies]]\ntype = \"tcp\"\nlocal = 70000\n", "line 3"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_pasted_frpc_toml_must_be_private() {
        let text = "[auth.oidc]\nclientSecret = \"tn1\"\ntokenEndpointURL = \"https://c\"\n";
        assert!(matches!(read(text), Err(Error::Loose(_))));
    }
}
