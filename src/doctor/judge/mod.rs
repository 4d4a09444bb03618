//! Facts in, checks out. Pure: no files, no clock, no network.

mod configuration;
mod inference;
mod machine;
mod video;

use super::check::Check;
use super::facts::Facts;

/// All checks, in the order of the report.
pub fn judge(facts: &Facts) -> Vec<Check> {
    let mut checks = machine::checks(facts);
    checks.extend(inference::checks(facts));
    checks.extend(video::checks(facts));
    checks.extend(configuration::checks(facts));
    checks
}

/// The command that installs `packages`, each once. The names are Debian's.
fn install<'a>(facts: &Facts, packages: impl IntoIterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = packages.into_iter().collect();
    names.sort_unstable();
    names.dedup();
    let names = names.join(" ");
    match facts.board.debian {
        true => format!("sudo apt-get install {names}"),
        false => format!("install the equivalents of Debian's packages {names}"),
    }
}

/// `a`, `a and b`, `a, b and c`.
fn listed<T: AsRef<str>>(words: &[T]) -> String {
    match words {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [head @ .., last] => {
            let head: Vec<&str> = head.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", head.join(", "), last.as_ref())
        }
    }
}

/// `7.4 GiB`, `312 MiB`.
fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0..MIB => format!("{} KiB", bytes >> 10),
        _ if bytes < 1 << 30 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / (1_u64 << 30) as f64),
    }
}
