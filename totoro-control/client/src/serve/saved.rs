//! The tunnels that come back after a restart, once the person says so.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::access::Source;
use crate::control::Control;
use crate::error::Error;
use crate::target::Wanted;
use crate::{invite, private};

/// What a tunnel was asked for as. It may have a code in it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The control plane.
    pub control: String,
    /// Whether it may be asked over plain HTTP.
    #[serde(default)]
    pub insecure_http: bool,
    /// A public node's name; absent with a code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The code; absent with a public node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite: Option<String>,
    /// What is exposed.
    pub proxies: Vec<Wanted>,
}

/// The file.
#[derive(Default, Serialize, Deserialize)]
struct File {
    #[serde(default)]
    tunnels: Vec<Asked>,
}

/// Where tunnels are remembered.
#[derive(Clone, Debug)]
pub struct Saved(PathBuf);

impl Asked {
    /// As it is asked for.
    pub fn new(
        control: &Control,
        insecure_http: bool,
        source: &Source,
        proxies: Vec<Wanted>,
    ) -> Self {
        let (node, invite) = match source {
            Source::Public(node) => (Some(node.clone()), None),
            Source::Invite(code) => (None, Some(code.to_string())),
        };
        Asked {
            control: control.url().to_owned(),
            insecure_http,
            node,
            invite,
            proxies,
        }
    }

    /// How one comes in.
    ///
    /// # Errors
    /// There is neither a node nor a code, or what there is is none.
    pub fn source(&self) -> Result<Source, Error> {
        match (&self.node, &self.invite) {
            (Some(node), _) => Ok(Source::Public(node.clone())),
            (None, Some(code)) => Ok(invite::read(code, crate::Lang::En)?.source),
            (None, None) => Err(Error::NoCode),
        }
    }

    /// What is exposed, for people.
    #[must_use]
    pub fn services(&self) -> String {
        let one = |wanted: &Wanted| {
            let local = match &wanted.local {
                crate::target::Local::Port(port) => port.to_string(),
                crate::target::Local::Text(text) => text.clone(),
            };
            format!("{} {local}", wanted.protocol)
        };
        let all: Vec<String> = self.proxies.iter().map(one).collect();
        all.join(", ")
    }
}

impl Saved {
    /// In the place where what is remembered lies.
    ///
    /// # Errors
    /// There is no home.
    pub fn usual() -> Result<Self, Error> {
        Ok(Saved(private::config_dir()?.join("serve.toml")))
    }

    /// What is remembered.
    ///
    /// # Errors
    /// The file can be read by others, or not at all.
    pub fn load(&self) -> Result<Vec<Asked>, Error> {
        if !self.0.exists() {
            return Ok(Vec::new());
        }
        let text = private::read_secret(&self.0)?;
        // The reader's own words would quote the line, which may have a code in it.
        let file: File = toml::from_str(&text)
            .map_err(|error: toml::de::Error| Error::file(&self.0, error.message()))?;
        Ok(file.tunnels)
    }

    /// Remembers these and no others, 0600.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn keep(&self, tunnels: Vec<Asked>) -> Result<(), Error> {
        if tunnels.is_empty() {
            std::fs::remove_file(&self.0).ok();
            return Ok(());
        }
        if let Some(dir) = self.0.parent() {
            private::own_dir(dir)?;
        }
        let text = toml::to_string(&File { tunnels });
        let text = text.map_err(|error| Error::file(&self.0, error))?;
        private::write(&self.0, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use totoro_api::code::InviteCode;
    use totoro_api::ports::Protocol;

    #[test]
    fn what_is_kept_comes_back_and_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let saved = Saved(dir.path().join("totoro/serve.toml"));
        assert_eq!(saved.load().unwrap().len(), 0);
        let control = Control::new("https://c.example.org", false).unwrap();
        let code = InviteCode::from_entropy([3; 16]);
        let wanted = vec![Wanted::new(Protocol::Tcp, "22", 0)];
        let invite = Asked::new(
            &control,
            false,
            &Source::Invite(code.clone()),
            wanted.clone(),
        );
        let public = Asked::new(&control, false, &Source::Public("n1".to_owned()), wanted);
        saved.keep(vec![invite, public]).unwrap();
        let mode = std::fs::metadata(&saved.0).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let back = saved.load().unwrap();
        assert_eq!(back[0].source().unwrap(), Source::Invite(code));
        assert_eq!(back[1].source().unwrap(), Source::Public("n1".to_owned()));
        assert_eq!(back[0].services(), "tcp 22");
        saved.keep(Vec::new()).unwrap();
        assert!(!saved.0.exists());
        std::fs::write(&saved.0, "tunnels = 5").unwrap();
        assert!(saved.load().is_err(), "others can read it");
    }
}
