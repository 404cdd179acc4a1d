//! The kernel object: a file, or what the daemon was built with.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::{Context, Result, failed};

/// Its file's name.
const NAME: &str = "totoro-ebpf.o";

#[cfg(embedded_object)]
const EMBEDDED: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("TOTORO_EMBEDDED_OBJECT")));
#[cfg(not(embedded_object))]
const EMBEDDED: Option<&[u8]> = None;

/// Where the object is when no setting says so: in the daemon (an empty path) where it was built in;
/// else beside the daemon, or where a build has it.
#[must_use]
pub fn find() -> PathBuf {
    if EMBEDDED.is_some() {
        return PathBuf::new();
    }
    let beside = std::env::current_exe().ok().and_then(|exe| {
        let dir = exe.parent()?;
        // Installed, or built in place: target/<profile>/ and target/bpf/.
        let places = [dir.join(NAME), dir.join("../bpf").join(NAME)];
        places.into_iter().find(|path| path.exists())
    });
    beside.unwrap_or_else(|| Path::new("/usr/lib/totoro").join(NAME))
}

/// What to call it in messages.
#[must_use]
pub fn shown(path: &Path) -> String {
    match path.as_os_str().is_empty() {
        true => "built in".to_owned(),
        false => path.display().to_string(),
    }
}

/// Its bytes.
///
/// # Errors
/// The file can't be read, or none is built in.
pub fn read(path: &Path) -> Result<Cow<'static, [u8]>> {
    if path.as_os_str().is_empty() {
        let none = "this daemon was built without it; set `object`, or build with cargo xtask dist";
        return EMBEDDED
            .map(Cow::Borrowed)
            .ok_or_else(|| failed("use", "the built-in kernel object", none));
    }
    std::fs::read(path).map(Cow::Owned).on(
        "read the kernel object (make it with: cargo xtask build-ebpf)",
        shown(path),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_file_or_built_in_and_said_so() {
        let built_in = read(Path::new(""));
        assert_eq!(built_in.is_ok(), EMBEDDED.is_some());
        assert_eq!(find().as_os_str().is_empty(), EMBEDDED.is_some());
        assert_eq!(shown(Path::new("")), "built in");
        let error = read(Path::new("/nowhere/at/all.o")).unwrap_err().whole();
        assert!(
            error.contains("/nowhere/at/all.o") && error.contains("build-ebpf"),
            "{error}"
        );
    }
}
