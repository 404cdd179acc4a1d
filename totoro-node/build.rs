//! Puts the kernel object into the daemon where `TOTORO_EMBED_OBJECT` names its file, as `cargo xtask
//! dist` does. Other builds read it from a file at the start.

fn main() {
    println!("cargo::rerun-if-env-changed=TOTORO_EMBED_OBJECT");
    println!("cargo::rustc-check-cfg=cfg(embedded_object)");
    if let Ok(object) = std::env::var("TOTORO_EMBED_OBJECT") {
        println!("cargo::rerun-if-changed={object}");
        println!("cargo::rustc-env=TOTORO_EMBEDDED_OBJECT={object}");
        println!("cargo::rustc-cfg=embedded_object");
    }
}
