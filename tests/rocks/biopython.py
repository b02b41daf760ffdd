"""Prints cases with the results of Biopython, one a line: what, arguments, result, by tabs.

GENOME stands for the first sequence of the file, PART for its first 12,000 bases.

usage: biopython.py GENOME.fa
"""

import random
import sys
import warnings

from Bio import BiopythonWarning, SeqIO
from Bio.Align import PairwiseAligner, substitution_matrices
from Bio.Restriction import CommOnly, RestrictionBatch
from Bio.Seq import Seq
from Bio.SeqUtils import GC_skew, MeltingTemp, gc_fraction, molecular_weight, nt_search

LETTERS = {
    "dna": "ACGT",
    "rna": "ACGU",
    "protein": "ACDEFGHIKLMNPQRSTVWY",
}
IUPAC = "ACGTRYSWKMBDHVN"
SALTS = {
    "none": 0,
    "Schildkraut1965": 1,
    "Wetmur1991": 2,
    "SantaLucia1996": 3,
    "SantaLucia1998Tm": 4,
    "SantaLucia1998": 5,
    "Owczarzy2004": 6,
    "Owczarzy2008": 7,
}
STACKS = {
    "Breslauer1986": MeltingTemp.DNA_NN1,
    "Sugimoto1996": MeltingTemp.DNA_NN2,
    "Allawi1997": MeltingTemp.DNA_NN3,
    "SantaLucia2004": MeltingTemp.DNA_NN4,
    "Freier1986": MeltingTemp.RNA_NN1,
    "Xia1998": MeltingTemp.RNA_NN2,
}
CONTENTS = {
    "MarmurDoty1962": 1,
    "QuikChange": 2,
    "Schildkraut1965": 3,
    "Wetmur1991": 4,
    "Wetmur1991RNA": 5,
    "Wetmur1991Hybrid": 6,
    "Primer3Plus": 7,
    "VonAhsen2001": 8,
}
# Enzymes that the rock leaves out.
OF_METHYLATED_BASES = RestrictionBatch(["AbaSI", "FspEI", "LpnPI", "MspJI", "SgeI"])
MATRICES = {"EDNAFULL": "NUC.4.4"}
PROTEIN_MATRICES = ["BLOSUM45", "BLOSUM50", "BLOSUM62", "BLOSUM80", "BLOSUM90", "PAM30", "PAM70", "PAM250"]


def show(*fields):
    print(*fields, sep="\t")


def some(letters, least, most):
    return "".join(random.choice(letters) for _ in range(random.randint(least, most)))


def options(**values):
    return ",".join(f"{name}={value}" for name, value in values.items())


def strands():
    for _ in range(30):
        sequence = some(IUPAC + IUPAC.lower(), 0, 80)
        show("reverse_complement", sequence, "dna", Seq(sequence).reverse_complement())
        rna = sequence.replace("T", "U").replace("t", "u")
        show("reverse_complement", rna, "rna", Seq(rna).reverse_complement_rna())
        show("transcribe", sequence, Seq(sequence).transcribe())
        show("back_transcribe", rna, Seq(rna).back_transcribe())


def translations():
    codes = [1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16] + list(range(21, 34))
    for code in codes:
        for letters in ("ACGT", "ACGTACGTACGTACGTN"):
            sequence = some(letters, 300, 900)
            sequence = sequence[: len(sequence) // 3 * 3]
            show("translate", sequence, code, Seq(sequence).translate(table=code))


def temperatures():
    for _ in range(40):
        sequence = some("ACGT", 8, 40)
        show("melting_temperature", sequence, "method=Wallace1979", MeltingTemp.Tm_Wallace(sequence))
        for name, values in CONTENTS.items():
            salt = {"na": random.choice([10, 50, 390]), "k": random.choice([0, 25])}
            result = MeltingTemp.Tm_GC(sequence, valueset=values, Na=salt["na"], K=salt["k"])
            show("melting_temperature", sequence, options(method=name, **salt), result)
        for name, table in STACKS.items():
            correction = random.choice(list(SALTS))
            salt = {
                "na": random.choice([20, 50, 115]),
                "tris": random.choice([0, 10]),
                "mg": 1.5 if correction == "Owczarzy2008" else random.choice([0, 1.5]),
                "dntp": random.choice([0, 0.6]),
            }
            strand, other = random.choice([(25, 25), (250, 50), (50, 0)])
            itself = random.choice([True, False])
            result = MeltingTemp.Tm_NN(
                sequence, nn_table=table, dnac1=strand, dnac2=other, selfcomp=itself, saltcorr=SALTS[correction],
                Na=salt["na"], Tris=salt["tris"], Mg=salt["mg"], dNTPs=salt["dntp"],
            )
            given = options(method=name, salt=correction, strand=strand, other_strand=other,
                            self_complementary=str(itself).lower(), **salt)
            show("melting_temperature", sequence, given, result)


def weights():
    for _ in range(10):
        for kind, letters in LETTERS.items():
            sequence = some(letters, 1, 60)
            for exact in (False, True):
                for ring in (False, True):
                    for double in (False, True):
                        if double and kind == "protein":
                            continue
                        result = molecular_weight(sequence, kind if kind == "protein" else kind.upper(),
                                                  double_stranded=double, circular=ring, monoisotopic=exact)
                        given = options(kind=kind, double_stranded=str(double).lower(),
                                        circular=str(ring).lower(), monoisotopic=str(exact).lower())
                        show("molecular_weight", sequence, given, result)


def windows(genome):
    show("gc_content", "GENOME", gc_fraction(genome))
    for window in (100, 777):
        show("gc_skew", "GENOME", window, ",".join(repr(skew) for skew in GC_skew(genome, window)))


def motifs(genome):
    for motif in ("GATC", "AAA", "RYNGATCS", "CCWGG", "GNNTC"):
        places = nt_search(genome, motif)[1:]
        show("find_motif", "GENOME", motif, ",".join(str(place + 1) for place in places))


def sites(genome):
    for ring in (False, True):
        part = Seq(genome[:12000])
        found = CommOnly.search(part, linear=not ring)
        for enzyme in sorted(set(found) - set(OF_METHYLATED_BASES), key=str):
            # Biopython gives the first base behind the cut.
            cuts = sorted({(place - 2) % len(part) + 1 for place in found[enzyme]})
            show("restriction_sites", "PART", enzyme, str(ring).lower(), ",".join(map(str, cuts)))


def changed(sequence, letters, rate):
    result = []
    for letter in sequence:
        chance = random.random()
        if chance < rate * 0.7:
            result.append(random.choice(letters))
        elif chance < rate * 0.85:
            pass
        elif chance < rate:
            result.append(letter + some(letters, 1, 9))
        else:
            result.append(letter)
    return "".join(result) or random.choice(letters)


def alignments():
    for _ in range(80):
        matrix, letters = random.choice([("EDNAFULL", "ACGT"), (random.choice(PROTEIN_MATRICES), LETTERS["protein"])])
        left = some(letters, 1, random.choice([2, 5, 20, 60, 150]))
        if random.random() < 0.7:
            right = changed(left, letters, random.choice([0.02, 0.1, 0.4]))
        else:
            right = some(letters, 1, 90)
        if random.random() < 0.3:
            right = some(letters, 1, 60) + right
        gap, more = random.choice([(10, 0.5), (5, 2), (3, 3), (12, 1), (1, 0)])
        aligner = PairwiseAligner(substitution_matrix=substitution_matrices.load(MATRICES.get(matrix, matrix)))
        for mode in ("global", "local", "overlap", "fit"):
            aligner.mode = "local" if mode == "local" else "global"
            aligner.open_gap_score, aligner.extend_gap_score = -gap, -more
            if mode == "overlap":
                aligner.end_gap_score = 0
            elif mode == "fit":
                aligner.open_end_insertion_score = aligner.extend_end_insertion_score = 0
            show("align", left, right, options(mode=mode, matrix=matrix, gap_open=gap, gap_extend=more),
                 aligner.score(left, right))


# Codons that are a stop or an amino acid by their place are read as an amino acid, as here.
warnings.simplefilter("ignore", BiopythonWarning)
random.seed(20260801)
genome = str(next(SeqIO.parse(sys.argv[1], "fasta")).seq)
strands()
translations()
temperatures()
weights()
windows(genome)
motifs(genome)
sites(genome)
alignments()
