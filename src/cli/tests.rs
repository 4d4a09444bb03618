#![allow(clippy::unwrap_used, clippy::panic)]
use clap::{Command, CommandFactory, Parser};

use super::Cli;

/// The verbs that do something themselves, with their full names.
fn verbs() -> Vec<(String, Command)> {
    fn collect(command: &Command, name: &str, all: &mut Vec<(String, Command)>) {
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
            let name = format!("{name} {}", verb.get_name());
            match verb.has_subcommands() {
                true => collect(verb, &name, all),
                false => all.push((name, verb.clone())),
            }
        }
    }
    let mut all = Vec::new();
    collect(&Cli::command(), "ocelli", &mut all);
    all
}

#[test]
fn declarations_of_all_arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_of_each_verb_ends_with_two_examples_that_parse() {
    let verbs = verbs();
    assert!(verbs.len() >= 14, "{:?}", verbs.iter().map(|(name, _)| name).collect::<Vec<_>>());
    for (name, verb) in verbs {
        let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{name}: no examples in its help"));
        let examples: Vec<&str> = examples.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        assert_eq!(examples.len(), 2, "{name}: {examples:?}");
        for example in examples {
            assert!(example.starts_with(&name), "{name}: `{example}`");
            Cli::try_parse_from(example.split_whitespace()).unwrap_or_else(|error| panic!("`{example}`: {error}"));
        }
    }
}

#[test]
fn verbs_that_run_a_model_take_the_same_options() {
    let options = ["backend", "input_size", "threads", "precision", "ort_library", "openvino_library"];
    let models = ["detect", "eval", "models show", "models verify", "models build", "models prepare"];
    for (name, verb) in verbs().into_iter().filter(|(name, _)| models.contains(&name.trim_start_matches("ocelli "))) {
        let ids: Vec<&str> = verb.get_arguments().map(|argument| argument.get_id().as_str()).collect();
        assert!(options.iter().all(|option| ids.contains(option)), "{name}: {ids:?}");
    }
}

#[test]
fn options_of_the_command_line_override_those_of_the_configuration() {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        model: super::options::NamedModel,
    }
    let parse = |words: &[&str]| Line::parse_from([&["x"], words].concat()).model;
    let words = ["--threads", "3", "--precision", "bf16", "--openvino-library", "/ov.so", "--input-size", "64x32"];
    let config = parse(&words).config();
    assert_eq!((config.threads, config.openvino.precision), (Some(3), crate::config::Precision::Bf16));
    assert_eq!(config.openvino.library.as_deref(), Some("/ov.so".as_ref()));
    assert_eq!(config.input_size, Some(crate::types::Size::new(64, 32)));
    let mut kept = config.clone();
    parse(&[]).options.apply(&mut kept);
    assert_eq!(kept, config, "what is not given stays");
}
