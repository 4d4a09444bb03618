//! Hostile text: an answer, never a panic.

use proptest::prelude::*;

use super::*;

const VALID: &str = include_str!("../../../configs/several-cameras.yaml");

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_an_answer_and_no_panic(text in "(cameras|mqtt|url|: |\n|  |- |\\{|\\}|\\[|\\]|\"|'|&a |\\*a|\\$\\{|[ -~]|ä|\t|!!int |<<|\\||>|#){0,60}") {
        let _ = load(&text).map_err(|errors| errors.to_string());
    }

    #[test]
    fn a_mutated_file_is_an_answer_and_no_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, "[ -~\n\t]{0,6}"), 1..6),
    ) {
        let mut text: Vec<char> = VALID.chars().collect();
        for (at, removed, added) in edits {
            let at = at.index(text.len());
            let end = (at + removed).min(text.len());
            text.splice(at..end, added.chars());
        }
        let text: String = text.into_iter().collect();
        match load(&text) {
            Ok(loaded) => drop(loaded.show(true)),
            Err(errors) => prop_assert!(!errors.problems().is_empty() && !errors.to_string().is_empty()),
        }
    }

    #[test]
    fn any_argument_is_an_answer_and_no_panic(set in "[a-z.=\\[\\]{}\"$ ä-]{0,30}") {
        let _ = load_with(&[("t.yaml", CAMERA)], &[&set], &[]).map_err(|errors| errors.to_string());
    }
}

#[test]
fn deep_and_exploding_documents_are_errors() {
    let bomb = (0..12).fold("a0: &a0 [x, x]\n".to_owned(), |text, n| {
        format!("{text}a{}: &a{} [*a{n}, *a{n}, *a{n}, *a{n}, *a{n}, *a{n}, *a{n}, *a{n}]\n", n + 1, n + 1)
    });
    for text in ["[".repeat(5000), "{a: ".repeat(5000), "- ".repeat(5000), bomb] {
        assert!(load(&text).is_err());
    }
}
