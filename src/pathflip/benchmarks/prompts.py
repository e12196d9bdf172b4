"""Words for zero-shot classes: names and synonyms, and sentences to put them in, written for this project.

CONCH (arXiv 2307.12914) averages 22 sentences, TITAN (arXiv 2411.19666) 23; the sentences here are as many and say as
much, but the words are our own.
"""

__all__ = ["CLASS_NAMES", "ONE", "TEMPLATES_22", "TEMPLATES_23", "WAYS", "mutation_prompts"]

ONE = ("This slide shows {}.",)
"""One prompt a class, as the published PathFLIP script has it."""

TEMPLATES_22 = (
    "{}.", "Tissue with {}.", "The tissue shows {}.", "This slide shows {}.", "Histology of {}.",
    "Microscopy of {}.", "A section with {}.", "A stained section of {}.", "An H&E section of {}.",
    "H&E histology of {}.", "Features of {} are seen.", "Findings are those of {}.", "Consistent with {}.",
    "The appearance is that of {}.", "Morphology of {}.", "An example of {}.", "A region of {}.",
    "A field with {}.", "{} is present.", "{} is seen here.", "Diagnosis: {}.", "The specimen contains {}.",
)  # fmt: skip
TEMPLATES_23 = (
    "{}.", "A whole slide of {}.", "The whole slide shows {}.", "This case is {}.", "A case of {}.",
    "Specimen with {}.", "The specimen shows {}.", "Resection with {}.", "A biopsy of {}.", "Tumour: {}.",
    "Final diagnosis: {}.", "Histological diagnosis: {}.", "Pathological diagnosis of {}.",
    "The report describes {}.", "The findings favour {}.", "Histology is typical of {}.", "Sections show {}.",
    "Microscopic examination shows {}.", "The lesion is {}.", "Overall picture of {}.", "Tissue involved by {}.",
    "Changes of {} are found.", "The patient has {}.",
)  # fmt: skip
WAYS: dict[str, tuple[str, ...]] = {
    "one prompt": ONE,
    "22 templates": TEMPLATES_22,
    "23 templates": TEMPLATES_23,
}

_LUNG = {
    "adenocarcinoma": ("lung adenocarcinoma", "adenocarcinoma of the lung", "pulmonary adenocarcinoma",
                       "gland-forming carcinoma of the lung"),
    "squamous": ("squamous cell carcinoma of the lung", "lung squamous cell carcinoma",
                 "pulmonary squamous cell carcinoma", "keratinising carcinoma of the lung"),
}  # fmt: skip
CLASS_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "camelyon16": {
        "Normal": ("normal lymph node tissue", "lymph node without metastasis", "lymphoid tissue free of tumour"),
        "Tumor": ("metastatic carcinoma in a lymph node", "lymph node metastasis of breast carcinoma",
                  "lymph node with tumour"),
    },
    "nsclc": {"LUAD": _LUNG["adenocarcinoma"], "LUSC": _LUNG["squamous"]},
    "rcc": {
        "KIRC": ("clear cell renal cell carcinoma", "renal clear cell carcinoma", "clear cell carcinoma of the kidney"),
        "KIRP": ("papillary renal cell carcinoma", "renal papillary carcinoma", "papillary carcinoma of the kidney"),
        "KICH": ("chromophobe renal cell carcinoma", "renal chromophobe carcinoma",
                 "chromophobe carcinoma of the kidney"),
    },
}  # fmt: skip
"""Label (without a cohort's prefix: "TCGA-LUAD" is "LUAD") -> its names."""


def mutation_prompts(gene: str) -> dict[str, tuple[str, ...]]:
    """Words for tumours with and without a mutation of a gene; whether morphology tells is the question."""
    return {
        "mutated": (f"a carcinoma with {gene} mutation", f"{gene}-mutated tumour", f"tumour with mutated {gene}"),
        "wild type": (f"a carcinoma without {gene} mutation", f"{gene} wild-type tumour", f"intact {gene}"),
    }
