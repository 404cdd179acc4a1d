//! The target that `TOTORO_FUZZ_TARGET` names, under libFuzzer.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use totoro_fuzz::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("TOTORO_FUZZ_TARGET").expect("TOTORO_FUZZ_TARGET names a target");
    totoro_fuzz::find(&name).unwrap_or_else(|| panic!("{name} is no target"))
});

fuzz_target!(|data: &[u8]| (TARGET.run)(data));
