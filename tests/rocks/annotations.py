"""Prints what Biopython reads of flat files: annotations.py genbank|embl FILE..."""

import sys
import warnings

from Bio import BiopythonWarning, SeqIO


def place(part):
    # Of a place between two bases Biopython has the first one as start and as end.
    start, stop = sorted((int(part.start) + 1, int(part.end)))
    return f"{start}-{stop}{'-' if part.strand == -1 else '+'}"


warnings.simplefilter("ignore", BiopythonWarning)
for path in sys.argv[2:]:
    for record in SeqIO.parse(path, sys.argv[1]):
        print("record", record.id, len(record.seq), record.description.rstrip("."), sep="\t")
        for feature in record.features:
            places = ",".join(place(part) for part in feature.location.parts)
            print("feature", feature.type, places, feature.extract(record.seq), sep="\t")
            for name, values in feature.qualifiers.items():
                for value in values:
                    print("qualifier", name, value, sep="\t")
