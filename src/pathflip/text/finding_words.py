"""Whether a text names something seen under the microscope, in any of the five languages.

Words of diagnoses and of microscopic findings, for telling a finding ("A. Gutartiges Bindegewebe.") from the title of a
specimen ("A. Haut, Rücken"), and histology from a gross description. English has its own table (``findings``).
"""

import re
from functools import lru_cache

from pathflip.text.cues import cues_of

__all__ = ["is_histology", "names_a_finding"]

_GERMAN = (
    r"\b(?:\w*(?:karzinom|sarkom|lymphom|melanom|adenom|gliom|blastom|zytom|papillom|lipom|fibrom|leiomyom|hamartom|"
    r"nekrose|dysplasie|hyperplasie|metaplasie|neoplasie|atypie|atrophie|fibrose|sklerose|gliose|zirrhose|steatose|"
    r"mitose|ulzeration|verkalkung|blutung|infiltrat|invasion)\w*|\w*(?:nä|ä)vus|gut-?artig\w*|bös-?artig\w*|benigne\w*|"
    r"maligne\w*|malignität\w*|tumor(?:frei\w*|gewebe|zellen|anteile|infiltrat\w*)|karzinomfrei\w*|\w*entzünd\w*|invasiv\w*|infiltri\w*|"
    r"\w*differenziert\w*|unauffällig\w*|regelrecht\w*|reaktiv\w*|chronisch\w*|akut\w*|nekrotisch\w*|atypisch\w*|"
    r"dysplastisch\w*|fibrös\w*|fibrosiert\w*|lymphozyt\w*|granulom\w*|\w{4,}itis|ödem\w*|"
    r"narben?gewebe|G[123]|high[- ]?grade|"
    r"low[- ]?grade)\b"
)
_FRENCH = (
    r"\b(?:\w*(?:carcinome|sarcome|lymphome|mélanome|adénome|gliome|blastome|papillome|lipome|fibrome|léiomyome)s?|"
    r"nécros\w+|nécroti\w+|\w*(?:dysplasi|hyperplasi|métaplasi|néoplasi)\w+|atypi\w+|béni(?:n|gne)s?|mali(?:n|gne)s?|"
    r"malignité|tumor(?:al|aux|ales?)|inflammat\w+|infiltr\w+|\w*différenci\w+|chroniques?|aiguës?|aigus?|normal(?:e|es)?|normaux|"
    r"fibros\w+|fibreu\w+|remani\w+|lésions?|granulom\w+|mitoses?|calcifi\w+|hémorrag\w+|ulcér\w+|"
    r"(?:gastr|col|œsophag|oesophag|appendic|cholécyst|dermat|hépat|cervic|prostat|pancréat|bronch)ites?)\b"
)
_SPANISH = (
    r"\b(?:\w*(?:carcinoma|sarcoma|linfoma|melanoma|adenoma|glioma|blastoma|papiloma|lipoma|fibroma|leiomioma)s?|necr[oó]\w+|"
    r"\w*(?:displasi|hiperplasi|metaplasi|neoplasi)\w+|atipi\w+|atípic\w+|benign\w*|malign\w*|tumoral(?:es)?|inflamat\w+|inflamaci\w+|"
    r"infiltr\w+|\w*diferenciad\w+|crónic\w+|agud[oa]s?|normal(?:es)?|fibros\w+|cambios|mitosis|calcific\w+|hemorrag\w+|"
    r"ulcerad\w+|ulceraci\w+|p[oó]lipos?|regresi\w+|invasor\w*|granulom\w+|\w{4,}itis)\b"
)
_JAPANESE = (
    r"癌|腫瘍|肉腫|リンパ腫|黒色腫|腺腫|壊死|炎|良性|悪性|異型|過形成|化生|浸潤|線維|硬化|萎縮|肉芽|石灰化|出血|潰瘍|"
    r"核分裂|転移|著変|正常|分化"
)
# Of a tissue by itself these say that it was seen ("Benign fibrous tissue."), a bare "Breast tissue" does not.
_ENGLISH = (
    r"\b(?:benign|malignant|malignancy|normal|reactive|fatty|fibrous|fibrofatty|fibroadipose|"
    r"granulation|scar tissue|connective|"
    r"micro-?calcif\w+|histologic(?:al)? (?:tumou?r )?(?:sub)?type|\w*invasion|deposits|"
    r"tumou?r[- ]free|free of|dysplastic|metaplastic|hyperplastic|neoplastic|necrotic|chronic|acute)\b"
)
_HISTOLOGY = (
    r"\b(?:\w*(?:carcinom|sarcom|lymphom|melanom|karzinom|sarkom|carcinome|linfom)\w*|(?:un|de)?differentiated|differenziert\w*|"
    r"différencié\w*|diferenciad\w*|mitos\w+|mitotic|nuclei|nuclear|nucle(?:ar|oli)\w*|pleomorphi\w+|atypia|dysplas\w+|dysplasie|"
    r"cells|glands|glandular|cribriform|acini|acinar|papillae|stroma|keratin\w*|epithelium|lymphocyt\w+|"
    r"(?:lympho)?vascular invasion|perineural|angioinvasion|zellen|drüsen|kerne|cellules|glandes|"
    r"noyaux|células|glándulas|núcleos)\b|"
    r"癌|肉腫|分化|核分裂|異型|腺管|細胞"
)


@lru_cache(maxsize=1)
def _any_finding() -> re.Pattern[str]:
    listed = (cues_of("en").findings, _ENGLISH, _GERMAN, _FRENCH, _SPANISH, _JAPANESE)
    return re.compile("|".join(listed), re.IGNORECASE)


_MICROSCOPIC = re.compile(_HISTOLOGY, re.IGNORECASE)


def names_a_finding(text: str) -> bool:
    """Whether a text holds a word of a diagnosis or of a microscopic finding, in any language with tables."""
    return _any_finding().search(text) is not None


def is_histology(text: str) -> bool:
    """Whether a text speaks of what only a microscope shows: cell types, differentiation, mitoses, nuclei."""
    return _MICROSCOPIC.search(text) is not None
