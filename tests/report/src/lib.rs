//! What a benchmark run found: a [`Run`] has figures, each with its samples over repeats, what it is
//! measured against, and its goals. It is kept as `run.json` (which `compare` reads again) and as a page,
//! and is printed as a table. Pure, but for [`Run::new`], which looks at the machine, and
//! [`Run::finish`], which writes.

mod compare;
mod figure;
mod goal;
mod gone;
mod locked;
mod machine;
mod page;
mod pair;
mod plot;
mod run;
mod stats;
mod table;

pub use compare::{Answer, Change, Comparison, Outcome, Rules, compare};
pub use figure::{Against, Better, Figure};
pub use goal::{Bound, Goal, Relative, Verdict};
pub use locked::locked;
pub use machine::Machine;
pub use run::{Baseline, FORMAT, Goals, Run};
pub use stats::{median, percentile, range};
