"""Prints the features that gffutils reads of GFF3 files: gff3.py FILE..."""

import sys

from gffutils.iterators import DataIterator

for path in sys.argv[1:]:
    for feature in DataIterator(path):
        print("feature", feature.seqid, feature.source, feature.featuretype, feature.start, feature.end,
              feature.score, feature.strand, feature.frame, sep="\t")
        for name, values in sorted(feature.attributes.items()):
            for value in values:
                print("attribute", name, value.replace("\t", "<tab>").replace("\n", "<line>"), sep="\t")
