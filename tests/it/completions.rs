//! What a package takes from the program itself: completions and manual pages.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::common::{ocelli, skip};

fn completions(shell: &str) -> String {
    let run = ocelli().args(["completions", shell]).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

/// The verbs of `ocelli --help`, without `help` itself.
fn verbs() -> Vec<String> {
    let help = String::from_utf8(ocelli().arg("--help").output().unwrap().stdout).unwrap();
    let block = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    // A line that goes on with the text of the verb above is indented further.
    let lines = block.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    lines.map(|line| line.split_whitespace().next().unwrap().to_owned()).filter(|verb| verb != "help").collect()
}

#[test]
fn each_shell_accepts_its_completions_and_they_hold_all_visible_verbs() {
    assert!(verbs().len() >= 6, "{:?}", verbs());
    for shell in ["bash", "zsh", "fish"] {
        let script = completions(shell);
        for verb in verbs() {
            assert!(script.contains(&verb), "{shell}: {verb}");
        }
        assert!(!script.contains("probe-runtime"), "{shell}: a hidden verb is offered");
        let checker = Command::new(shell).arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let Ok(mut checker) = checker else {
            skip(&format!("{shell} is not installed, its syntax was not checked"));
            continue;
        };
        checker.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let outcome = checker.wait_with_output().unwrap();
        assert!(outcome.status.success(), "{shell}: {}", String::from_utf8_lossy(&outcome.stderr));
    }
}

#[test]
fn bash_completes_a_verb_and_an_option() {
    let ask = |words: &str, index: usize| {
        let script = format!(
            "{}\nCOMP_WORDS=({words}); COMP_CWORD={index}; _ocelli ocelli \"${{COMP_WORDS[{index}]}}\" \"${{COMP_WORDS[{}]}}\"; echo \"${{COMPREPLY[@]}}\"",
            completions("bash"),
            index - 1
        );
        let run = Command::new("bash").arg("-c").arg(script).output().unwrap();
        String::from_utf8(run.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(ask("ocelli det", 1), "detect");
    assert_eq!(ask("ocelli config show --eff", 3), "--effective");
}

#[test]
fn a_shell_that_is_not_known_is_exit_code_2() {
    assert_eq!(ocelli().args(["completions", "cmd.exe"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn every_visible_verb_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("man1");
    let run = ocelli().arg("man").arg(&folder).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let pages: BTreeSet<String> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let main = std::fs::read_to_string(folder.join("ocelli.1")).unwrap();
    for verb in verbs() {
        assert!(pages.contains(&format!("ocelli-{verb}.1")), "{verb}: {pages:?}");
        assert!(main.contains(&format!("ocelli\\-{verb}(1)")), "{verb}: {main}");
    }
    assert!(pages.contains("ocelli-config-check.1"), "{pages:?}");
    assert!(!pages.iter().any(|page| page.contains("probe") || page.contains("help")), "{pages:?}");
    for part in [".TH ocelli 1", ".SH FILES", ".SH ENVIRONMENT", ".SH EXIT STATUS"] {
        assert_eq!(main.matches(part).count(), 1, "{part}");
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let run = ocelli().args(["man", "/proc/self/nowhere/man"]).output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    let message = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(message.contains("/proc/self/nowhere/man"), "{message}");
}
