#!/usr/bin/env python3
import sys
import yaml


def total(doc):
    return sum(doc.get("list", []))


if __name__ == "__main__":
    with open(sys.argv[1]) as f:
        doc = yaml.safe_load(f)
    print(doc["name"], total(doc))
