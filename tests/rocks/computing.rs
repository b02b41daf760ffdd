//! Figures of sequences and alignments beside Biopython and EMBOSS.

use std::fs;
use std::process::Command;

use crate::tools::{INTERPRETERS, lambda, lua_script, python, run};

/// Strands, translation by every code, composition, melting temperatures, weights, motifs,
/// restriction sites of every enzyme, alignments in every mode.
#[test]
fn figures_equal_those_of_biopython() {
    let scratch = tempfile::tempdir().unwrap();
    let genome = lambda(scratch.path());
    let cases = scratch.path().join("cases.tsv");
    fs::write(&cases, python("biopython.py", &[&genome])).unwrap();
    let arguments = [cases.to_str().unwrap(), genome.to_str().unwrap()];
    for interpreter in INTERPRETERS {
        let compared = lua_script(interpreter, "cases.lua", &arguments);
        assert_eq!(
            compared,
            "align 320, back_transcribe 30, find_motif 5, gc_content 1, gc_skew 2, \
             melting_temperature 600, molecular_weight 200, restriction_sites 1236, \
             reverse_complement 60, transcribe 30, translate 54\n",
            "{interpreter:?}",
        );
    }
}

/// The score that `needle` or `water` gives, and the same of the rock.
fn emboss_score(program: &str, left: &str, right: &str, matrix: &str) -> f64 {
    let report = run(
        Command::new(program)
            .args([
                "-asequence",
                &format!("asis:{left}"),
                "-bsequence",
                &format!("asis:{right}"),
            ])
            .args(["-gapopen", "10", "-gapextend", "0.5", "-datafile", matrix])
            .args(["-outfile", "stdout", "-auto"]),
        "emboss",
    );
    let line = report
        .lines()
        .find(|line| line.starts_with("# Score:"))
        .unwrap();
    line["# Score:".len()..].trim().parse().unwrap()
}

#[test]
fn alignments_score_as_needle_and_water_score_them() {
    // Fragments of hemoglobin alpha and beta, myoglobin, and the textbook's pair.
    let proteins = [
        "VLSPADKTNVKAAWGKVGAHAGEYGAEALERMFLSFPTTKTYFPHFDLSHGSAQVKGHGKKVADALTNAVAHVDD",
        "VHLTPEEKSAVTALWGKVNVDEVGGEALGRLLVVYPWTQRFFESFGDLSTPDAVMGNPKVKAHGKKVLGAFSDGL",
        "GLSDGEWQLVLNVWGKVEADIPGHGQEVLIRLFKGHPETLEKFDKFKHLKSEDEMKASEDLKKHGATVLTALGGI",
        "HEAGAWGHEE",
        "PAWHEAE",
    ];
    let mut pairs = String::new();
    let mut expected = Vec::new();
    for (number, left) in proteins.iter().enumerate() {
        for right in &proteins[number + 1..] {
            for (program, mode) in [("needle", "overlap"), ("water", "local")] {
                pairs.push_str(&format!("{mode}\t{left}\t{right}\n"));
                expected.push(emboss_score(program, left, right, "EBLOSUM62"));
            }
        }
    }
    assert!(expected.contains(&15.0), "the textbook's pair scores 15");
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("pairs.tsv");
    fs::write(&file, pairs).unwrap();
    for interpreter in INTERPRETERS {
        let scores = lua_script(interpreter, "scores.lua", &[file.to_str().unwrap()]);
        let scores: Vec<f64> = scores.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(scores, expected, "{interpreter:?}");
    }
}
