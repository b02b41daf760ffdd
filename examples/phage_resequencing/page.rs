//! The report as one page without anything from elsewhere: it can be sent by mail and looked at
//! anywhere.

use std::fmt::Write as _;

use crate::plots::{self, NARROW, Size, WIDE};
use crate::report::{Reads, Report};

/// Positions that fewer reads reach are left out of the plots: their quality is that of a few.
const LEAST_READS: u64 = 20;

const STYLE: &str = include_str!("page.css");

/// The page.
pub(crate) fn page(report: &Report) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Resequencing of {id}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>Resequencing of {id}</h1>\n<p>{length} bases, {gc:.2} % GC. From {inputs}.</p>\n",
        id = escaped(&report.genome.id),
        length = grouped(report.genome.length),
        gc = report.genome.gc * 100.0,
        inputs = escaped(&report.inputs.join(", ")),
    );
    cards(&mut html, report);
    reads(&mut html, report);
    kmers(&mut html, report);
    placement(&mut html, report);
    orfs(&mut html, report);
    html.push_str("</main>\n</body>\n</html>\n");
    html
}

/// What one looks at first.
fn cards(html: &mut String, report: &Report) {
    let part = |part: u64, of: u64| 100.0 * part as f64 / of.max(1) as f64;
    let [pairs, kept] = ["read", "kept"].map(|name| report.trimmed.get(name).copied().unwrap_or(0));
    let placed = &report.placed;
    html.push_str("<dl class=\"cards\">\n");
    for (name, value, more) in [
        (
            "pairs kept",
            grouped(kept),
            format!("{:.1} % of {}", part(kept, pairs), grouped(pairs)),
        ),
        (
            "reads placed",
            grouped(placed.placed),
            format!(
                "{:.1} % of {}",
                part(placed.placed, placed.reads),
                grouped(placed.reads)
            ),
        ),
        (
            "mean depth",
            format!("{:.2}", report.coverage.mean),
            "reads on a base".to_owned(),
        ),
        (
            "bases covered",
            format!("{:.3} %", report.coverage.breadth * 100.0),
            format!("{} without a read", grouped(report.coverage.uncovered)),
        ),
        (
            "variants",
            grouped(report.variants.len() as u64),
            "against the reference".to_owned(),
        ),
        (
            "ORFs",
            grouped(report.orfs.len() as u64),
            "of 300 bases or more".to_owned(),
        ),
    ] {
        let _ = writeln!(
            html,
            "<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>"
        );
    }
    html.push_str("</dl>\n");
}

fn reads(html: &mut String, report: &Report) {
    html.push_str("<section>\n<h2>Reads</h2>\n");
    let head = [
        "", "reads", "bases", "shortest", "mean", "longest", "N50", "Q20 %", "Q30 %", "GC %", "N %",
    ];
    let rows = report.reads.iter().map(|Reads { name, quality: q }| {
        vec![
            (*name).to_owned(),
            grouped(q.reads),
            grouped(q.bases),
            grouped(q.min_length),
            format!("{:.1}", q.mean_length),
            grouped(q.max_length),
            grouped(q.n50),
            format!("{:.2}", q.q20 * 100.0),
            format!("{:.2}", q.q30 * 100.0),
            format!("{:.2}", q.gc_of_all * 100.0),
            format!("{:.2}", q.n * 100.0),
        ]
    });
    table(html, &head, rows);
    for Reads { name, quality } in &report.reads {
        let enough = |position: &&crate::report::Position| position.bases >= LEAST_READS;
        let count = quality.positions.iter().take_while(enough).count();
        let shown = &quality.positions[..count.max(1).min(quality.positions.len())];
        let caption = format!(
            "Quality by position, {name}: median (line), the middle half and the middle eight tenths of \
             the bases (areas), as far as {LEAST_READS} reads or more reach, the first 1000 at most."
        );
        figure(html, &caption, |size| plots::quality(size, name, shown));
    }
    html.push_str("</section>\n");
}

fn kmers(html: &mut String, report: &Report) {
    let (of_reads, of_genome) = (&report.kmers.figures, &report.genome.kmers);
    html.push_str("<section>\n<h2>k-mers</h2>\n");
    let head = ["", "k", "once", "distinct", "all", "most often"];
    let rows = [("reads of pairs", of_reads), ("genome", of_genome)].map(|(name, figures)| {
        let numbers = [
            figures.k,
            figures.unique,
            figures.distinct,
            figures.total,
            figures.max,
        ];
        let mut row = vec![name.to_owned()];
        row.extend(numbers.map(grouped));
        row
    });
    table(html, &head, rows.into_iter());
    if let Some(size) = &report.kmers.genome_size {
        let _ = writeln!(
            html,
            "<p>The spectrum peaks at {:.0} times, which makes the genome {} bases long.</p>",
            size.depth,
            grouped(size.length.round() as u64)
        );
    }
    let caption = format!(
        "How many {}-mers of the reads, both strands taken together, occur how often. Those that occur \
         once are mostly errors.",
        of_reads.k
    );
    figure(html, &caption, |size| {
        plots::spectrum(size, &report.kmers.spectrum)
    });
    html.push_str("</section>\n");
}

fn placement(html: &mut String, report: &Report) {
    let placed = &report.placed;
    html.push_str("<section>\n<h2>Placement, coverage, variants</h2>\n");
    let _ = writeln!(
        html,
        "<p>{} reads on the forward strand, {} on the reverse; depth at most {}.</p>",
        grouped(placed.forward),
        grouped(placed.reverse),
        grouped(report.coverage.max)
    );
    figure(
        html,
        "Depth along the genome: mean (line) and range (area) of the bases at each place of the plot.",
        |size| plots::coverage(size, &report.depth),
    );
    if report.variants.is_empty() {
        html.push_str("<p>No base differs from the reference in enough reads.</p>\n");
    } else {
        let head = [
            "position",
            "reference",
            "reads",
            "depth",
            "forward",
            "reverse",
            "part %",
            "quality",
        ];
        let rows = report.variants.iter().map(|v| {
            vec![
                grouped(v.position),
                escaped(&v.reference),
                escaped(&v.alt),
                grouped(v.depth),
                grouped(v.forward),
                grouped(v.reverse),
                format!("{:.1}", v.fraction * 100.0),
                format!("{:.0}", v.quality),
            ]
        });
        let _ = writeln!(
            html,
            "<details><summary>{} variants</summary>",
            report.variants.len()
        );
        table(html, &head, rows);
        html.push_str("</details>\n");
    }
    html.push_str("</section>\n");
}

fn orfs(html: &mut String, report: &Report) {
    html.push_str("<section>\n<h2>Open reading frames</h2>\n");
    let length = report.genome.length;
    figure(
        html,
        "Open reading frames from ATG to before the stop, 300 bases or more, genetic code 11.",
        |size| plots::orfs(size, length, &report.orfs),
    );
    let head = ["start", "stop", "frame", "bases", "protein"];
    let rows = report.orfs.iter().map(|orf| {
        let protein: String = orf.protein.chars().take(24).collect();
        let more = if orf.protein.len() > 24 { "…" } else { "" };
        vec![
            grouped(orf.start),
            grouped(orf.stop),
            format!("{:+}", orf.frame),
            grouped(orf.length),
            format!("<code>{}{more}</code>", escaped(&protein)),
        ]
    });
    let _ = writeln!(
        html,
        "<details><summary>{} open reading frames</summary>",
        report.orfs.len()
    );
    table(html, &head, rows);
    html.push_str("</details>\n</section>\n");
}

/// A plot in both sizes, of which the page shows the one that fits.
fn figure(html: &mut String, caption: &str, plot: impl Fn(Size) -> String) {
    let _ = writeln!(
        html,
        "<figure>\n<div class=\"wide\">{}</div>\n<div class=\"narrow\">{}</div>\n\
         <figcaption>{caption}</figcaption>\n</figure>",
        plot(WIDE),
        plot(NARROW)
    );
}

/// A table whose cells are HTML.
fn table(html: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    html.push_str("<div class=\"table\"><table>\n<tr>");
    for cell in head {
        let _ = write!(html, "<th>{cell}</th>");
    }
    html.push_str("</tr>\n");
    for row in rows {
        html.push_str("<tr>");
        for cell in row {
            let _ = write!(html, "<td>{cell}</td>");
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
}

/// A number with a narrow space between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
