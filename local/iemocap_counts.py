"""The published counts of IEMOCAP: of all its codes, and of the four classes (happy and excited merged) by speaker."""

from __future__ import annotations

CLASSES = ("neu", "hap", "ang", "sad")
# Utterances of each class by real speaker (first row of four), and by the prefix of the file name: the published folds.
BY_NAME = {
    "01F": ((171, 132, 147, 78), (226, 117, 97, 67)),
    "01M": ((213, 146, 82, 116), (158, 161, 132, 127)),
    "02F": ((135, 166, 67, 113), (209, 148, 65, 83)),
    "02M": ((227, 161, 70, 84), (153, 179, 72, 114)),
    "03F": ((130, 128, 92, 172), (156, 145, 88, 147)),
    "03M": ((190, 158, 148, 133), (164, 141, 152, 158)),
    "04F": ((76, 185, 205, 62), (128, 174, 177, 74)),
    "04M": ((182, 118, 122, 81), (130, 129, 150, 69)),
    "05F": ((221, 159, 78, 132), (192, 236, 78, 138)),
    "05M": ((163, 283, 92, 113), (192, 206, 92, 107)),
}
OF_FOUR = {
    f"{kind} {name} {label}": count
    for name, rows in BY_NAME.items()
    for kind, row in zip(("speaker", "prefix"), rows, strict=True)
    for label, count in zip(CLASSES, row, strict=True)
} | {"class hap": 1636}
# Of 10,039 utterances. Five classes add fru to the four (7,380); six have hap and exc apart besides (7,380).
OF_CODES = {
    f"class {code}": count
    for code, count in {
        "neu": 1708, "hap": 595, "exc": 1041, "ang": 1103, "sad": 1084, "fru": 1849, "fea": 40, "sur": 107,
        "dis": 2, "oth": 3, "xxx": 2507,
    }.items()
}  # fmt: skip
