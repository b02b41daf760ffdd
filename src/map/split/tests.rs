use std::fs;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn split(&self, input: &Input, shards: Shards) -> Result<Table> {
        split(input, shards, self.folder.path())
    }
}

/// The text of each shard.
fn texts(table: &Table) -> Vec<String> {
    let text = |shard: &Shard| {
        let mut all = String::new();
        for piece in &shard.pieces {
            let mut file = table.sources[piece.source].open().unwrap();
            file.seek(SeekFrom::Start(piece.offset)).unwrap();
            file.take(piece.length).read_to_string(&mut all).unwrap();
        }
        all
    };
    table.shards.iter().map(text).collect()
}

#[test]
fn shards_end_with_records_and_have_what_was_asked_for() {
    let lab = Lab::new();
    let file = lab.file("x.txt", "1\n22\n333\n4444\n55555\n6");
    let input = Input::new([file], Format::Lines);
    for (shards, expected) in [
        (Shards::Count(1), &["1\n22\n333\n4444\n55555\n6"][..]),
        (Shards::Count(2), &["1\n22\n333\n4444\n", "55555\n6"]),
        (Shards::Count(3), &["1\n22\n333\n", "4444\n", "55555\n6"]),
        (
            Shards::Bytes(6),
            &["1\n22\n", "333\n", "4444\n", "55555\n", "6"],
        ),
        (
            Shards::Bytes(1),
            &["1\n", "22\n", "333\n", "4444\n", "55555\n", "6"],
        ),
        (Shards::Records(4), &["1\n22\n333\n4444\n", "55555\n6"]),
    ] {
        let table = lab.split(&input, shards).unwrap();
        assert_eq!(texts(&table), expected, "{shards:?}");
        assert_eq!(table.records(), 6);
    }
    let table = lab.split(&input, Shards::Records(4)).unwrap();
    assert_eq!((table.shards[1].first, table.shards[1].records), (5, 2));
    assert!(table.shards[1].pieces[0].is_open && !table.shards[0].pieces[0].is_open);
}

#[test]
fn a_record_longer_than_a_shard_leaves_no_tiny_shards_behind_it() {
    let lab = Lab::new();
    let file = lab.file("x.txt", format!("{}\n1\n2\n3\n4\n", "A".repeat(100)));
    let table = lab
        .split(&Input::new([file], Format::Lines), Shards::Count(4))
        .unwrap();
    assert_eq!(
        table
            .shards
            .iter()
            .map(|shard| shard.records)
            .collect::<Vec<_>>(),
        [1, 4]
    );
}

#[test]
fn several_files_are_as_one_and_packed_ones_as_plain_ones() {
    let lab = Lab::new();
    let plain = lab.file("a.fa", "\u{feff}>a\nAC\n>b\nGT");
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(b">c\nAA\n").unwrap();
    let packed = packed.finish().unwrap();
    // As `cat a.gz b.gz` makes it, and as bgzip does.
    let packed = lab.file("b.fa.gz", [packed.clone(), packed].concat());
    let table = lab.split(
        &Input::new([plain, packed.clone()], Format::Fasta),
        Shards::Count(1),
    );
    let table = table.unwrap();
    assert_eq!(texts(&table), [">a\nAC\n>b\nGT>c\nAA\n>c\nAA\n"]);
    assert_eq!(table.records(), 4);
    assert!(table.shards[0].pieces[0].is_open && !table.shards[0].pieces[1].is_open);
    assert_eq!(table.sources[1].sha256, sum_of(&packed).unwrap());
    // What is not whole is refused by its own name and with how far it goes; the reason is told as
    // the source alone.
    let whole = fs::read(&packed).unwrap();
    let mut broken = whole.clone();
    broken[whole.len() - 5] ^= 1;
    for (name, bytes, lines) in [
        ("cut.gz", &whole[..whole.len() - 9], 4),
        ("head.gz", &whole[..5], 0),
        ("broken.gz", &broken[..], 4),
    ] {
        let cut = lab.file(name, bytes);
        let error = lab
            .split(&Input::new([&cut], Format::Fasta), Shards::Count(1))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{} can be unpacked up to line {lines} only: it was cut short or damaged; get it again",
                cut.display()
            )
        );
        assert!(std::error::Error::source(&error).is_some());
    }
}

#[test]
fn pairs_stay_together() {
    let lab = Lab::new();
    let first = lab.file("1.fq", "@r1/1\nA\n+\nI\n@r2/1\nAC\n+\nII\n@r3/1\nA\n+\nI\n");
    let second = lab.file(
        "2.fq",
        "@r1/2\nACGT\n+\nIIII\n@r2/2\nA\n+\nI\n@r3/2\nA\n+\nI\n",
    );
    let input = Input::paired(&first, &second, Format::Fastq);
    let table = lab.split(&input, Shards::Records(2)).unwrap();
    assert_eq!(
        texts(&table),
        [
            "@r1/1\nA\n+\nI\n@r2/1\nAC\n+\nII\n@r1/2\nACGT\n+\nIIII\n@r2/2\nA\n+\nI\n",
            "@r3/1\nA\n+\nI\n@r3/2\nA\n+\nI\n"
        ]
    );
    assert_eq!(table.records(), 3);

    let other = lab.file("3.fq", "@r1/2\nA\n+\nI\n@x2/2\nA\n+\nI\n@r3/2\nA\n+\nI\n");
    let short = lab.file("4.fq", "@r1/2\nA\n+\nI\n");
    for (with, place, reason) in [
        (
            other,
            "3.fq: record 2, line 8: ",
            "\"x2/2\" is no pair of \"r2/1\"",
        ),
        (
            short,
            "1.fq: record 2, line 8: ",
            "4.fq ends before this record",
        ),
    ] {
        let input = Input::paired(&first, with, Format::Fastq);
        let error = lab.split(&input, Shards::Count(1)).unwrap_err().to_string();
        assert!(error.contains(place) && error.contains(reason), "{error}");
    }
}

#[test]
fn what_cannot_be_mapped_is_refused_by_name() {
    let lab = Lab::new();
    let empty = lab.file("empty.fa", "\n\n");
    let missing = lab.folder.path().join("missing.fa");
    let folder = lab.folder.path().to_owned();
    for (file, kind, reason) in [
        (empty, ErrorKind::Config, "empty.fa has no records"),
        (missing, ErrorKind::NotFound, "missing.fa"),
        (folder, ErrorKind::Config, "is no plain file"),
    ] {
        let error = lab
            .split(&Input::new([file], Format::Fasta), Shards::Count(2))
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let good = lab.file("a.fa", ">a\nA\n");
    let error = lab
        .split(&Input::new([&good], Format::Fasta), Shards::Count(0))
        .unwrap_err();
    assert!(error.to_string().contains("1 or more"), "{error}");
    let table = lab
        .split(&Input::new([&good], Format::Fasta), Shards::Count(1))
        .unwrap();
    fs::write(&good, ">a\nACGT\n").unwrap();
    let error = table.sources[0].open().unwrap_err();
    assert!(
        error.to_string().contains("changed while it was mapped"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_cut_is_whole_together(
        lengths in prop::collection::vec(0_usize..50, 1..40),
        count in 1_u64..12,
        most in 1_u64..200,
    ) {
        let lab = Lab::new();
        let text: String = lengths.iter().map(|length| format!(">x\n{}\n", "A".repeat(*length))).collect();
        let input = Input::new([lab.file("x.fa", &text)], Format::Fasta);
        for shards in [Shards::Count(count), Shards::Bytes(most), Shards::Records(count)] {
            let table = lab.split(&input, shards).unwrap();
            prop_assert_eq!(texts(&table).concat(), text.clone());
            prop_assert_eq!(table.records(), lengths.len() as u64);
            prop_assert!(table.shards.iter().all(|shard| shard.records > 0));
            if let Shards::Count(count) = shards {
                prop_assert!(table.shards.len() as u64 <= count);
            }
        }
    }
}
