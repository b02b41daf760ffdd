"""The rocks beside Biopython, in one run: bench.py GENOME.fa READS.fq

Prints seconds (the best of three) and how many times faster than Biopython each interpreter is.
Both do the same work with the same result, which is compared.
"""

import os
import random
import subprocess
import sys
import tempfile
import time

from Bio import SeqIO
from Bio.Align import PairwiseAligner, substitution_matrices

INTERPRETERS = ["lua5.4", "luajit"]
MATRICES = {"EDNAFULL": "NUC.4.4"}
here = os.path.dirname(os.path.abspath(__file__))
genome_path, reads_path = sys.argv[1], sys.argv[2]
genome = next(SeqIO.parse(genome_path, "fasta")).seq


def timed(work):
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        figure = work()
        best = min(best, time.process_time() - start)
    return best, str(figure)


def parse_fastq():
    return sum(len(record.seq) for record in SeqIO.parse(reads_path, "fastq"))


def parse_fasta():
    return sum(len(record.seq) for _ in range(20) for record in SeqIO.parse(genome_path, "fasta"))


def kmers():
    # Biopython counts no k-mers; this is its sequence and a dictionary.
    forward, reverse, k, counts = str(genome), str(genome.reverse_complement()), 21, {}
    length = len(forward)
    for first in range(length - k + 1):
        kmer, other = forward[first:first + k], reverse[length - first - k:length - first]
        if other < kmer:
            kmer = other
        counts[kmer] = counts.get(kmer, 0) + 1
    return len(counts)


def reverse_complement():
    for _ in range(20):
        last = genome.reverse_complement()
    return len(last)


def translation():
    length = 0
    for strand in (genome, genome.reverse_complement()):
        for frame in range(3):
            part = strand[frame:]
            length += len(part[:len(part) // 3 * 3].translate(table=11))
    return length


def changed(sequence, letters, rate):
    result = []
    for letter in sequence:
        chance = random.random()
        if chance < rate * 0.1:
            continue
        result.append(random.choice(letters) if chance < rate else letter)
        if chance > 1 - rate * 0.1:
            result.append(random.choice(letters))
    return "".join(result)


def pairs():
    random.seed(1)
    dna, protein = "ACGT", "ARNDCQEGHILKMFPSTWYV"
    for name, mode, matrix, letters, length, rate, count in (
        ("global, DNA, 95 % alike", "global", "EDNAFULL", dna, 1000, 0.05, 4),
        ("local, DNA, 95 % alike", "local", "EDNAFULL", dna, 1000, 0.05, 4),
        ("global, proteins, 90 % alike", "global", "BLOSUM62", protein, 400, 0.1, 8),
        ("global, proteins, 60 % alike", "global", "BLOSUM62", protein, 400, 0.4, 8),
        ("local, proteins, 60 % alike", "local", "BLOSUM62", protein, 400, 0.4, 8),
    ):
        for _ in range(count):
            left = "".join(random.choice(letters) for _ in range(length))
            yield name, mode, matrix, left, changed(left, letters, rate)


def alignments(group):
    def work():
        total = 0
        for _, mode, matrix, left, right in group:
            aligner = PairwiseAligner(mode=mode, open_gap_score=-10, extend_gap_score=-0.5,
                                      substitution_matrix=substitution_matrices.load(MATRICES.get(matrix, matrix)))
            alignment = aligner.align(left, right)[0]
            alignment.coordinates  # the alignment itself, not its score alone
            total += alignment.score
        return f"{total:.1f}"
    return work


tasks = {
    "parse FASTQ": parse_fastq,
    "parse FASTA": parse_fasta,
    "canonical 21-mers": kmers,
    "reverse complement": reverse_complement,
    "translation": translation,
}
groups = {}
for pair in pairs():
    groups.setdefault(pair[0], []).append(pair)
tasks.update({name: alignments(group) for name, group in groups.items()})
theirs = {name: timed(work) for name, work in tasks.items()}
environment = dict(os.environ)
rocks = os.path.dirname(here)
path = ";".join(os.path.join(rocks, rock, "src", "?.lua") for rock in ("bio_compute", "bio_sequence_analysis"))
environment.update({"LUA_PATH": path, "LUA_PATH_5_4": path})
ours = {}
with tempfile.NamedTemporaryFile("w", suffix=".tsv") as file:
    for group in groups.values():
        file.writelines("\t".join(pair) + "\n" for pair in group)
    file.flush()
    for interpreter in INTERPRETERS:
        output = subprocess.run(
            [interpreter, os.path.join(here, "bench.lua"), genome_path, reads_path, file.name],
            env=environment, check=True, capture_output=True, text=True).stdout
        for line in output.splitlines():
            name, seconds, figure = line.split("\t")
            if figure != theirs[name][1]:
                sys.exit(f"{name}: {interpreter} has {figure}, Biopython {theirs[name][1]}")
            ours[interpreter, name] = float(seconds)
print(f"{'':32}{'Biopython':>12}" + "".join(f"{name:>12}{'':>9}" for name in INTERPRETERS))
for name, (seconds, _) in theirs.items():
    cells = "".join(f"{ours[interpreter, name]:>11.3f}s{seconds / ours[interpreter, name]:>8.1f}x" for interpreter in INTERPRETERS)
    print(f"{name:32}{seconds:>11.3f}s{cells}")
