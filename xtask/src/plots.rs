//! Bar charts of the tables that benchmarks print.

use std::fmt::Write as _;

/// One table's ratios.
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) svg: String,
}

/// A plot for each table that has a column of ratios.
pub(crate) fn of_tables(tables: &str) -> Vec<Plot> {
    let mut plots = Vec::new();
    let mut title = String::new();
    let mut ratio = None;
    let mut bars: Vec<(String, f64)> = Vec::new();
    for line in tables.lines().chain([""]) {
        if let Some(heading) = line.strip_prefix("### ") {
            heading.clone_into(&mut title);
        } else if line.starts_with('|') {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            match ratio {
                None => {
                    let is_ratio = |cell: &&str| matches!(*cell, "ratio" | "of the plain handler");
                    ratio = cells.iter().position(is_ratio);
                }
                Some(column) => {
                    let value = cells.get(column).and_then(|cell| cell.parse().ok());
                    if let (Some(name), Some(value)) = (cells.first(), value) {
                        bars.push((name.replace(['*', '`'], ""), value));
                    }
                }
            }
        } else {
            if bars.len() > 1 {
                plots.push(Plot {
                    svg: svg(&title, &bars),
                    title: title.clone(),
                });
            }
            bars.clear();
            ratio = None;
        }
    }
    plots
}

fn svg(title: &str, bars: &[(String, f64)]) -> String {
    const ROW: usize = 26;
    const NAMES: f64 = 300.0;
    const LONGEST: f64 = 380.0;
    let most = bars.iter().map(|(_, value)| *value).fold(1.0, f64::max);
    let height = 40 + ROW * bars.len();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-weight=\"bold\">{}</text>\n",
        escaped(title)
    );
    for (index, (name, value)) in bars.iter().enumerate() {
        let top = 34 + ROW * index;
        let fill = if name.contains("idem") {
            "#1f77b4"
        } else {
            "#b0b7bf"
        };
        let (baseline, length) = (top + 14, value / most * LONGEST);
        let _ = writeln!(
            svg,
            "<text x=\"10\" y=\"{baseline}\">{}</text>\
             <rect x=\"{NAMES}\" y=\"{top}\" width=\"{length:.0}\" height=\"18\" fill=\"{fill}\"/>\
             <text x=\"{:.0}\" y=\"{baseline}\">{value:.2}</text>",
            escaped(name),
            NAMES + length + 6.0,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}
