//! Precision over recall as an SVG picture.

use std::fmt::Write;

use super::average_precision::{CURVE_POINTS, Score};

/// Curves with a colour and a line in the legend; more would look alike.
const SHOWN: usize = 20;
const LEFT: f64 = 64.0;
const TOP: f64 = 48.0;
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 400.0;
const LEGEND: f64 = LEFT + WIDTH + 24.0;
const LINE: f64 = 18.0;

/// One curve per class at IoU 0.5, the mean of all in black, a legend with the average precisions. `labels` by class.
pub fn svg(score: &Score, labels: &[String], title: &str) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 820 510\" width=\"820\" height=\"510\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"820\" height=\"510\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"16\">{}</text>\n",
        escape(title, 80)
    );
    axes(&mut out);
    // The best classes first, so that the legend has the order of the curves.
    let mut classes: Vec<_> = score.classes.iter().collect();
    classes.sort_by(|a, b| b.ap50.total_cmp(&a.ap50));
    let mut row = TOP + 6.0;
    let count = score.classes.len().max(1) as f64;
    let mean: Vec<f64> =
        (0..CURVE_POINTS).map(|n| classes.iter().filter_map(|c| c.curve50.get(n)).sum::<f64>() / count).collect();
    legend(&mut out, &mut row, "black", &format!("all classes {:.3}", score.map50));
    for (n, class) in classes.iter().enumerate() {
        // Hues a golden angle apart stay distinct.
        let color = match n {
            0..SHOWN => format!("hsl({:.0},70%,42%)", (n as f64 * 137.508) % 360.0),
            _ => "#bbbbbb".to_owned(),
        };
        curve(&mut out, &class.curve50, &color, 1.6);
        if n < SHOWN {
            let name = labels.get(class.class).map_or_else(|| format!("class{}", class.class), Clone::clone);
            legend(&mut out, &mut row, &color, &format!("{} {:.3}", escape(&name, 18), class.ap50));
        }
    }
    if classes.len() > SHOWN {
        legend(&mut out, &mut row, "#bbbbbb", &format!("{} more", classes.len() - SHOWN));
    }
    curve(&mut out, &mean, "black", 2.6);
    out.push_str("</svg>\n");
    out
}

// Writing into a String cannot fail, so results of `write!` are ignored here and below.
fn axes(out: &mut String) {
    for tenth in 0..=10 {
        let share = f64::from(tenth) / 10.0;
        let (x, y) = (LEFT + share * WIDTH, TOP + (1.0 - share) * HEIGHT);
        let (right, bottom) = (LEFT + WIDTH, TOP + HEIGHT);
        let _ = write!(
            out,
            "<path d=\"M{x:.1} {TOP}V{bottom}M{LEFT} {y:.1}H{right}\" stroke=\"#dddddd\" fill=\"none\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{share:.1}</text>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{share:.1}</text>\n",
            bottom + 18.0,
            LEFT - 8.0,
            y + 4.0
        );
    }
    let (x, y) = (LEFT + WIDTH / 2.0, TOP + HEIGHT / 2.0);
    let _ = write!(
        out,
        "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"black\"/>\n\
         <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">recall</text>\n\
         <text x=\"20\" y=\"{y}\" text-anchor=\"middle\" transform=\"rotate(-90 20 {y})\">precision (IoU 0.5)</text>\n",
        TOP + HEIGHT + 42.0
    );
}

fn curve(out: &mut String, points: &[f64], color: &str, width: f64) {
    let last = points.len().saturating_sub(1).max(1) as f64;
    let _ = write!(out, "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\" points=\"");
    for (n, precision) in points.iter().enumerate() {
        let _ = write!(out, "{:.1},{:.1} ", LEFT + n as f64 / last * WIDTH, TOP + (1.0 - precision) * HEIGHT);
    }
    out.push_str("\"/>\n");
}

/// One line of the legend; `text` is escaped already.
fn legend(out: &mut String, row: &mut f64, color: &str, text: &str) {
    let y = *row;
    let _ = write!(
        out,
        "<path d=\"M{LEGEND} {y:.1}h22\" stroke=\"{color}\" stroke-width=\"3\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\">{text}</text>\n",
        LEGEND + 28.0,
        y + 4.5
    );
    *row += LINE;
}

/// Text for XML, at most `limit` characters; control characters, which XML forbids, are left out.
fn escape(text: &str, limit: usize) -> String {
    let mut clean: Vec<char> = text.chars().filter(|c| !c.is_control()).collect();
    if clean.len() > limit {
        clean.truncate(limit.saturating_sub(1));
        clean.push('…');
    }
    let clean: String = clean.into_iter().collect();
    clean.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::super::ClassScore;
    use super::*;

    fn score(classes: usize) -> Score {
        let class = |class| ClassScore {
            class,
            boxes: 3,
            crowds: 0,
            ap50: class as f64 / 100.0,
            ap: 0.0,
            recall50: 0.5,
            curve50: vec![1.0; CURVE_POINTS],
        };
        Score { map50: 0.25, map: 0.1, classes: (0..classes).map(class).collect() }
    }

    #[test]
    fn one_curve_per_class_and_one_for_all() {
        let svg = svg(&score(2), &["a<b".to_owned()], "x & y");
        assert_eq!(svg.matches("<polyline").count(), 3);
        for text in ["a&lt;b 0.000", "class1 0.010", "all classes 0.250", "x &amp; y", "recall", "precision"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
        assert!(svg.contains("64.0,48.0 ") && svg.contains("584.0,48.0 "), "from recall 0 to 1 at precision 1");
    }

    #[test]
    fn many_classes_do_not_overflow_the_legend() {
        let svg = svg(&score(80), &[], "t");
        assert_eq!(svg.matches("<polyline").count(), 81);
        assert!(svg.contains("60 more") && svg.contains("class79") && !svg.contains("class3 "), "{svg}");
    }

    #[test]
    fn no_classes_still_make_a_picture() {
        assert!(svg(&score(0), &[], "t").ends_with("</svg>\n"));
    }
}
