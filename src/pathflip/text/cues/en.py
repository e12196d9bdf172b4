"""English.

Denials and pseudo-denials: NegEx (Chapman et al. 2001, J Biomed Inform 34:301) with the termination words of ConText
(Harkema et al. 2009, J Biomed Inform 42:839), and wordings of pathology reports. Doubts: ConText's uncertainty
modifiers and Lindley et al. 2014, Arch Pathol Lab Med 138:1585 (phrases of diagnostic uncertainty in reports).
What a slide cannot show follows the headings of the College of American Pathologists' cancer protocols (procedure,
size, margins, regional nodes, pTNM, special studies, clinical history).
"""

from pathflip.text.cues import NEXT_SENTENCE, Cues

_COUNTED = r"(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|twelve|none|all|both|several|multiple)"
_NODE_WORDS = (
    r"(?:analys[ie]s|assessments?|examination|evaluation|involvement|metastas[ie]s|status|dissections?|biops\w+|"
)
_NODE_WORDS += r"sampling|excisions?|specimens?|positivity|negativity)"
_TISSUES = (
    r"(?:(?!(?:residual|tumou?r|malign\w*|neoplas\w*|viable|necrotic|carcinoma\w*)\b)[\w-]+ ){0,3}(?:skin|epidermis|nipple|muscle|"
    r"muscularis(?: propria)?|cartilage|bone|fat|adipose|mucosa|epithelium|parenchyma|nerves?|tissue)"
)
_TAKEN_TISSUES = r"(?:(?:overlying|underlying) )?(?:skin|epidermis|nipple|muscularis(?: propria)?|detrusor(?: muscle)?)"
_PRESENT = r"(?:present|identified|seen|included|contained|found|noted|observed|represented|recognized)"
_IN_SPECIMEN = r"(?: (?:in|within|on) (?:the|this|these|any of the) (?:[\w-]+ ){0,2}(?:specimens?|samples?|biops(?:y|ies)|material|fragments?))"
# "No additional findings", "no significant abnormality": a denial that names nothing.
_EMPTY_WORDS = (
    r"(?:additional|other|further|new|significant|remarkable|relevant|notable|noteworthy|pertinent|specific|diagnostic|major|obvious|gross|"
    r"pathological(?:ly)?|pathologic(?:ally)?|histopathologic(?:al)?|histologic(?:al)?|microscopic(?:al)?|morphologic(?:al)?|"
    r"structural|important|clinically|abnormal|particular)"
)
_EMPTY_NOUNS = (
    r"(?:findings?|abnormalit(?:y|ies)|anomal(?:y|ies)|alterations?|changes?|features|patholog(?:y|ies)|diagnos[ie]s|lesions?|"
    r"conditions?|processes|process)\b"
)
NOT_VISUAL: dict[str, tuple[str, ...]] = {
    "margins": (
        r"\bmargins?\b|\bmarginal (?:status|tissues?)\b|\bre-?resections?\b|\bthe proximity of the tumou?r\b|\bcloseness\b|(?:\bis|^)\W*close\W*$",
        r"\bresidual (?:tumou?r|disease|carcinoma)\W+R[012X]\b|\b(?:residual tumou?r|R) classification\b",
        r"\b(?:resection|surgical|excision|incision|inked) (?:\w+ )?(?:edges?|lines?|planes?)\b",
        r"\bstaple line\b|\binked\b|\bink\b",
        r"\bcomplete(?:ly)? (?:resect|excis|remov)\w*",
        r"\b(?:resect|excis|remov)\w+ (?:is |was |were )?(?:in)?complete(?:ly)?\b",
        r"\bcompleteness of (?:excision|resection)\b|\b(?:resection|excision) (?:status|is complete)\b",
    ),
    "nodes": (
        r"\bnodes\b|\bnodal\b|\blymphadenitis\b|\blymphadenectomy\b|\bextra(?:nodal|capsular) (?!extension of the tumou?r into)",
        r"\bextra(?:nodal|capsular)\b",
        rf"\bnode (?:\w+ )?{_NODE_WORDS}\b|\bnode[- ](?:positive|negative)\b|\bnode\s*:",
        r"\b(?:sentinel|regional|axillary|hilar|pelvic|inguinal|mediastinal|cervical|peribronchial|intrapulmonary|subcarinal|"
        r"paratracheal|jugular|iliac|obturator|mesenteric|perirectal|pericolic|perigastric|peripancreatic|supraclavicular|"
        r"submandibular|submental|retroperitoneal|retromammary|para-?aortic|periaortic|examined|sampled) (?:\w+ )?node\b",
        r"\bstations? #?\d+\w?\b|^\W*metasta(?:tic (?:involvement|disease|spread)|s[ie]s)\b|"
        r"\bmetasta[sz]i[sz]ed\b|\b(?:shows?|exhibits?|has) (?:\w+ )?metasta(?:tic disease|s[ie]s)\W*$",
        r"(?<!non-)\blymph node\b(?!.*(?:lymphoma|leuk|Hodgkin))|\blevel \w+ (?:lymph )?node\b|\blymph node (?:from|at|in) (?:station|level)\b",
        rf"\b{_COUNTED} (?:(?:/|of|out of) ?(?:the )?\w+ )?(?:\w+ )?(?:lymph )?node\b|\bneck dissection\b",
        r"\(\d+/\d+\)|\b(?:no|without|absence of|lack of)\b[^.;]{0,40}\bmetasta(?!tic infiltrat)\w+|\b(?:no|without)\b[^.;]{0,20}\blymphatic (?:spread|dissemination)",
    ),
    "stage": (
        r"\bstag(?:e|ed|es|ing)\b",
        r"\b(?:TNM|AJCC|UICC|FIGO(?! (?:histologic(?:al)? )?grade)|Dukes)\b",
        r"\bdistant (?:metasta\w+|spread|(?:\w+ )?(?:sites?|organs?))|\bregional (?:\w+ )?spread\b",
    ),
    "size": (
        r"\d\s*(?:cm|centimet\w+|mm|millimet\w+|g|gm|grams?|kg|ml|cc)\b(?!\s*(?:2|²|\^2))",
        r"\bweigh(?:s|ed|t|ing)\b|\bmeasur(?:es|ed|ing|ement)\b",
        r"\b(?:greatest|largest|maxim(?:um|al)) (?:dimension|diameter|extent)\b|\bBreslow\b",
        r"\b(?:tumou?r|lesion) (?:size\b|(?:is|was|has|had)[^,.;]{0,25}\bsize\b)|\bhas an? (?:\w+ )?size\b|\bsize\s*[:=]|\bdimensions\b|\bsize (?:determination|measurement)\b",
    ),
    "gross": (
        r"\bgross(?:ly)?\b(?! necrosis)|\bmacroscop\w+|\bformalin\b|\bfixed in\b|\breceived (?:fresh|in|for|and|as)\b",
        r"^\W*(?:in the \w+ \w+, )?(?:the |these )?(?:primary |main )?(?:tumou?r|carcinoma|lesions?|neoplasm|they|it) "
        r"forms? (?:an? |the )?(?:[\w-]+ ){0,3}mass\W*$|\bcassettes?\b|\bsubmitted\b|\bbisected\b|\bserially\b|\blabel+ed\b|\bblocks?\b(?! of tissue)",
        r"\b(?:dis)?colou?r(?:ed|ations?)?\b(?! change)|\bgr[ae]y[- ](?:white|tan|brown|red|pink)\b(?! (?:matter|junction))|\b(?:white|tan|pink|red|brown)[- ]gr[ae]y\b|"
        r"\b(?:gr[ae]y|whit|yellow|brown|tann)ish\b(?!(?:-\w+)? (?:\w+ )?pigment)|\b(?:rubbery|friable|firm|tan|soft-elastic|spiculated|fungating)\b|\b(?:white|yellow|gr[ae]y|brown)\b(?! (?:and \w+ )?matter)"
        r"[^.;]{0,30}\b(?:mass|nodule|lesion|tumou?r|tissue|surface)\b|\bto the naked eye\b|\bcut surfaces?\b",
        r"\bfrozen sections?\b|\bintra-?operativ\w+",
    ),
    "clinical": (
        r"\bclinical(?:ly)?\b(?! indicated)|\bhistory of\b|\b(?:medical|family|past|surgical|smoking) history\b",
        r"\bpatients?\b(?!['’]s)|\b\d+[- ]year[- ]old\b|\bsmok(?:er|ing)\b|\bsymptom\w*",
        r"\bpresent(?:s|ed) with (?:an? )?(?:pain|cough|fever|bleeding|mass|lump)\b|\bunderwent\b",
        r"\b(?:\w*therap(?:y|ies|eutic\w*)|chemoradi\w+|neo-?adjuvant|adjuvant|treatments?|management)\b",
        r"\b(?:pre|post)-?operativ\w+|\bfollow[- ]?up\b|\brecommend\w*|\bcorrelat\w+|\bprogno\w+|\bsurviv\w+",
        r"\brecurrence\b|\brecurrent (?:tumou?r|disease|carcinoma)\b|\bradiolog\w+|\bimaging\b|\bMRI\b|\bmammogra\w+",
        r"(?<!unable )(?<!impossible )(?<!possible )(?<!difficult )(?<!hard )(?<!failed )\bto (?:rule out|exclude)\b",
    ),
    "receptors": (
        r"\b(?:o?estrogen|progesterone|hormone|androgen)\b|\breceptors?\b|\bHER-?2\b|\bERBB2\b",
        r"\btriple[- ]negative\b|\bluminal [AB]\b|\bimmuno-?(?:histo)?(?:chem|stain|reactiv|pheno|positiv|fluoresc)\w*",
        r"\bKi-?67\b|\bMIB-?1\b|\bp(?:16|40|53|57|63|120)\b|\bTTF-?1\b|\bCK ?\d+|\b(?:pan-?)?cytokeratins?\b|\bpan-?keratins?\b|\bCD ?\d+\w?\b",
        r"\bGFAP\b|\bS-?100\b|\bsynaptophysin\b|\bchromogranin\b|\bPD-?L1\b|\bCDX-?2\b|\bHMB-?45\b|\bMelan-?A\b",
        r"\bNapsin\b|\bkeratin[- ]positiv\w+|\bNeu[ -]?N\b|\b(?:neuronal|tumou?r|immuno\w*) markers?\b|\b(?:proliferati(?:on|ve)|labell?ing) ind(?:ex|ices)\b|\bGATA-?3\b|\bE-cadherin\b|\bstain(?:s|ed|ing)? (?:positive|negative|for|with)\b",
        r"\bacid-fast\b|^\W*(?:\w+ ){0,2}stains?\W*$|\bmicrobial stain\w*|\bnegative (?:[\w,-]+ ){0,6}stains?\b|\bstain(?:s|ing)? (?:is|are|was|were) (?:positive|negative)\b",
        r"\b(?:mucin|special|reticulin|elastin|elastic|trichrome|iron|silver|gram|GMS|AFB|Congo red|Ziehl\W+Neelsen|repair) stain\w*|\bSOX-?1[01]\b|\bPAX-?8\b",
    ),
    "molecular": (
        r"\bmolecular\b|\bgen(?:e|es|etic|etics|omic)\b|\bmutat(?:ed|ions?|ional)\b|\bmutant\b|\bwild[- ]?type\b",
        r"\bamplifi\w+|\b(?:un|hyper)?methylat\w+|\b(?:co-?)?delet(?:ed|ions?)\b|\brearrange\w+|\b1p\b|\b19q\b",
        r"\bheterozygo\w+|\bmicrosatellite\b|\bmismatch repair\b|\b[dp]MMR\b|\bM(?:LH1|SH[26])\b|\bPMS2\b",
        r"\bMSI-[HL]\b",
        r"\bin situ hybridi[sz]ation\b|\bIDH[- ]?[12]?\b|\bEGFR\b|\b[KN]-?RAS\b|\bBRAF\b|\bROS-?1\b|\bPIK3CA\b",
        r"\bBRCA[12]\b|\bTP53\b|\bHPV\b|\bEBV\b|\bEBER\b|\boverexpress\w*|\bflow cytometry\b",
    ),
    "administration": (
        r"^\W*(?:following|after|upon) (?:an? |the )?(?:[\w-]+ ){0,4}(?:\w*ectomy|surgery|resection|excision|procedure)\W*$",
        r"\b\d{1,2}[/.-]\d{1,2}[/.-](?:19|20)?\d\d\b|\b(?:19|20)\d\d-\d\d-\d\d\b|\bdated\b|\breceived on\b",
        r"\b(?:dr|prof)\b\.? |\b(?:previous|prior|earlier) (?:report|biops\w+|specimen)\b(?! (?:site|cavity|tract|scar|procedure|changes?))",
        r"\bblood (?:samples?|specimens?|draws?)\b|\bnormal blood\b|\b(?:archived|cryomold|fresh[- ]frozen|forthcoming|to be issued)\b|"
        r"\bsupplement\w* reports? will\b|\bspecimens? (?:type|retained|(?:is|was|were) (?:intact|oriented))\b",
        r"\b(?:morphology|topography) code\b|\bcopy of\b|\bby telephone\b|\b(?:outside|external|intradepartmental|expert) (?:consult\w*|opinion|review)\b",
        r"\bdiscussed with\b|\b(?:informed|notified) (?:of|about|by)\b|\bsecond opinion\b",
        r"\bsigned\b|\bpathologist\b|\bsurgeon\b|\baccession\b|\breport(?:ed)? (?:by|date)\b|\bICD-?O?\b|\bSNOMED\b",
        r"\bpreviously reported\b|\b(?:report|result)s? to follow\b|\bMRN\b|\bdate of birth\b|\bDOB\b",
    ),
    "no information": (
        r"\bnot (?:\w+ly )?(?:applicable|performed|assessed|assessable|evaluated|examined|reported|specified|provided|mentioned|"
        r"stated|given|submitted|available|detailed|documented|done|known|discussed|addressed|sampled|received|recorded|"
        r"commented on|included in (?:the|this) (?:report|sample|specimen|section)s?)\b",
        r"\b(?:do|does|did) not (?:\w+ly )?(?:specify|mention|state|report|describe|detail|address|provide)\b",
        r"\bun(?:known|specified)\b|\bpending\b|\bdeferred\b|(?<=[:=])\s*n/?a\s*[.;]?$",
        r"\b(?:cannot|can not|could not) be (?:\w+ly )?(?:assessed|determined|evaluated|graded)\b|\b(?:insufficient|inadequate) (?:material|for)\b",
        r"^\W*(?:additional|other|further) (?:\w+ )?findings?\s*[:=]\s*(?:none|no|nil)\b",
        r"\bwithout (?:\w+ )?significance\b",
        rf"^(?:(?!\b(?:no|not|without|nor|neither|free|absen\w+|lack\w*)\b)[^;])*\b(?:no|without(?: any)?|not (?:reveal|show|exhibit|"
        rf"demonstrate|contain|have) any|(?:absence|lack) of(?: any)?) (?:{_EMPTY_WORDS} ){{0,4}}{_EMPTY_NOUNS}"
        rf"(?:,? (?:and|or|nor) (?:{_EMPTY_WORDS} ){{0,4}}{_EMPTY_NOUNS})*"
        r"(?! (?:of|for|suggesti\w+|indicati\w+|suspicious|diagnostic|(?:to )?suggest|(?:to )?support)\b)(?!.*(?:,|\b(?:and|or|nor)) (?:\w+ ){0,3}(?:evidence|malignan\w+|carcinoma|tumou?rs?)\b)(?:(?! (?:and|or|nor) )[^,;])*"
        r"(?: (?:in|within|on|from|throughout|elsewhere|beyond)\b[^;]*)?$",
        # What the specimen does not hold: "no muscle is present in the specimen", "no skin is present". "Smooth muscle is
        # not seen" alone denies a finding.
        *(
            rf"^\W*(?:there (?:is|are|was|were) )?(?:no|without(?: any)?) {tissue}(?: (?:(?:is|are|was|were) )?(?:\w+ly )?{_PRESENT})?"
            rf"{where}\W*$|^\W*(?:the )?{tissue} (?:is|are|was|were) (?:\w+ly )?(?:not {_PRESENT}|absent){where}\W*$"
            for tissue, where in ((_TISSUES, _IN_SPECIMEN), (_TAKEN_TISSUES, ""))
        ),
        r"\bno (?:\w+ ){1,4}(?:was|were) (?:performed|submitted|received|requested)\b",
        r"\bneither\b[^.;]{0,60}\b(?:sampled|submitted|assessed|received|evaluated|available|performed)\b",
        r"\b(?:details?|information|data) (?:regarding|about|on|concerning|of|for)\b",
        r"\bno (?:\w+ )?(?:mention|information|details?|data|comment)\b|\bsee (?:the )?(?:attached |scanned |original |full |separate )?(?:below|above|comment|note|synoptic|report|text|pdf|document)\W*$",
    ),
    "site": (
        r"^\W*(?:the )?(?:[\w-]+ ){0,2}(?:displays?|shows?|exhibits?) (?:multi|uni)(?:focality|centricity)\b",
        r"^\W*(?:(?:the|this|both) )?(?:[\w-]+ ){0,2}(?:tumou?rs?|carcinomas?|lesions?|neoplasms?|it) (?:is|are|was|were) (?:\w+ly )?(?:noted to be |an? )?"
        r"(?:(?:uni|multi)(?:focal|centric)|solitary|single)(?: (?:lesion|tumou?r|disease|mass))?\W*$",
        r"\b(?:located|situated|lies|is|was|comes|extends?) (?:very |extremely |quite )?close to\b",
    ),
    "interpretation": (
        r"\b(?:these|the|such)(?: \w+)? (?:findings?|features|results|characteristics) (?:\w+ly )?(?:highlight|"
        r"underscore|underline|emphasi[sz]e|support|suggest|provide|warrant|necessitate|reflect|contribute|align|point)\w*",
        r"\b(?:aggressive|malignant) (?:nature|behaviou?r|potential)\b|\bcritical (?:for|in|to)\b|\braises? concerns?\b|"
        r"\bpotential (?:for|to)\b|\bensur(?:es?|ing)\b|\bthe overall (?:[\w-]+ ){0,2}(?:features|findings|picture|appearance|morphology)\b|\bthe (?:provided|available|given) (?:information|report|details?|data|summary|description)\b",
        r"\b(?:these|the|such|pathological)(?: \w+)? findings (?:are )?(?:\w+ly )?(?:indica\w+|suggest\w*|confirm\w*|represent\w*|"
        r"demonstrate)\b(?: of)?(?: an?)? (?:\w+ (?:and )?){0,3}(?:aggressive|advanced|locali[sz]ed|early|late|progressive\w*|"
        r"challenging|favou?rable)\b|\bthis (?:\w+ ){0,2}(?:analysis|evaluation|assessment|examination) (?:\w+ly )?"
        r"(?:emphasi\w+|underscor\w+|highlights?|indicates?|reflects?|suggests?|provides?)\b|\bdetermining the origin\b",
        r"\bimplications?\b|\b(?:dis|con)cordan(?:ce|t)\b|\bfurther (?:evaluation|investigation|assessment|stud(?:y|ies)|workup)\b|\b(?:these|the) findings characteri[sz]e\b",
    ),
}
# Told from ordinary words by their capitals: "ER" but not "er", "pT2b N0", "(L1)", "V0"; "T cell" is none.
STAGE_TOKEN = r"[ycrma]{0,2}p?s?(?:T(?:[0-4][a-d]?|is|[Xx])|N(?:[0-3][a-c]?|[Xx])|M[01Xx])|[Ll]y?[01][abc]?|[Vv][0123][abc]?|[Pp]n[01][abc]?|[Pp][Ll][0-3]|BD[123]|INF[abc]|R[012Xx]"
NOT_VISUAL_CASED: dict[str, str] = {
    "stage": rf"(?<![\w-])(?:{STAGE_TOKEN})(?:\(\w+\))?(?:p?[NMLVR][0-3OXx][a-c]?)*\b(?!-)",
    "receptors": r"\b(?:positive|negative) for (?:phosphorylated )?(?!CIS|DCIS|LCIS|PIN|AIS)p?[A-Z]{2,}[\w-]*|\b(?:ERs?|PR|PAS|PSA|IHC|GMS|AFB|FITE)\b|\b(?:C3|C4d|C1q|SV40)\b|"
    r"\bIg[AGM]\b(?= ?(?:[:+(]|neg|pos|granular|linear|staining|deposits?))|\b(?:IF|EM)\b(?=\s*:)",
    "molecular": r"\b(?:ALK|FISH|MSI|MSS)\b",
}
FINDINGS = (
    r"\b(?!diagnos|prognos|stroma\b|stoma\b)\w*(?:carcinomas?|sarcomas?|lymphomas?|melanomas?|gliomas?|blastomas?|cytomas?|omas?|plasia|"
    r"osis|itis|phaga|phages|cytes?|cytic|glial)\b|\b(?:DCIS|LCIS|PIN|in[- ]situ|\w*invasion|invad\w+|(?:un|de)?differentiat\w+|grade[ds]?|"
    r"mitos\w+|mitotic|nuclei|nuclear|nucle\w+|atypia|atypical|inflam\w+|\w*pneumonia|abscess\w*|apopto\w+|\w*proliferation|leiomyomata|budding|Rosenthal|h[a]?ematopoie\w+|erosion|infiltrat\w+|glands?|glandular|(?:micro)?calcif\w+|malignan(?:t|cy|cies)|o?edema|"
    r"fibro\w+|cyst(?!oprostat|ectom|otom|oscop)\w*|polyps?|ulcer\w*|na?ev\w+|cribriform|papill\w+|mucin\w*|keratini?\w*|pleomorph\w+|anaplas\w+|patterns?|"
    r"(?:invasive|intraductal|in[- ]situ) components?|architect\w+|stroma\w*|necro\w+|cells?|cellular\w*|h[a]?emorrhag\w+|emphysem\w+|cortex|vascular|perineural|muscularis|"
    r"Clark(?:['’]s)? level|pleura\w*|serosa\w*|adipose|pigment\w*|anthrac\w+|capsul\w+|unremarkable|benign|changes|satellite|deposits?|nests?|spindle|solid|acinar)\b"
)
_ORGANS = r"(?:quadrants?|breasts?|lobes?|lungs?|colon|rectum|kidney|bladder|prostate|brain|tongue|mouth|skin|uterus|cervix|ovar\w+)"
_EMPTY = {
    "site": rf"^(?!.*\b(?:no|not|without|free|negative|absen\w+|malignan\w+|diagnosis)\b).*\b(?:tumou?rs?|mass(?:es)?|lesions?|foc(?:us|i)|nodules?)\b (?:is |was |were |are |found |identified |present |seen )*"
    rf"(?:on|in|at|within) (?:the|its|both)\b[^,;.]*\b(?:wall|segments?|regions?|surface|side|areas?|{_ORGANS})\b|"
    rf"\b(?:locat\w+|situated|centered|centred|positioned|originat\w+)\b.{{0,60}}\b(?:{_ORGANS}\b|o['’]clock\b)",
    "interpretation": r"\b(?:key|significant|important|notable|several|critical|essential) (?:\w+ )?findings\W*$|"
    r"\b(?:findings?|assessments?|evaluations?|analys[ie]s|examinations?|details|information|report|summary|"
    r"results?|characteristics|insights?|features)\b.{0,80}\b(?:underscor\w+|emphasi\w+|highlight\w*|provid\w+|guid\w+|direct\w+|"
    r"tailor\w*|warrant\w*|crucial|insights?|comprehensive\w*|reflects?|contribut\w+|foundation|significan\w+|distinct|illustrat\w+|refined|consistent "
    r"with its|notable|important|localized (?:tumou?r|disease|nature))\b",
    "no information": r"\b(?:specific )?measurements? were\b|\b(?:specimens?|samples?|material)\b.{0,30}\b(?:includ\w+|consist\w+|"
    r"compris\w+)\b|\bclassification was\b|\b(?:specimens?|samples?|material)\b.{0,30}\b(?:was|were|is|are) (?:an? |the )?\w+(?:ectomy|otomy|section)\b|"
    r"\bthe focus (?:is|was|being|lies) (?:\w+ly )?on\b|\b(?:aspects?|specimens?|slides?|sections?|samples?)\b[^.;]{0,40}"
    r"\b(?:has|have|was|were)(?: been)? (?:\w+ly )?(?:evaluated|reviewed|examined|assessed|analy[sz]ed)\W*$",
}
_VISIBLE_ANYWAY = (
    r"\bextracapsular (?:extension|spread|invasion)(?=.{0,80}prostat| into (?:the )?(?!.*\bnod))|(?:examination|sections?|analysis) of the submitted\b",
    r"\bin (?:the|all|any|other) (?:\w+ )?(?:submitted|received) (?:\w+ )?(?:material|tissue|sections?|specimens?|samples?|fragments?)\b",
    r"\b(?:ill|poorly|well|sharply)[- ](?:defined|circumscribed|demarcated) (?:\w+ )?margins?\b",
    r"\b(?:infiltrat\w+|invasive|pushing|irregular|smooth|scalloped|expansile|circumscribed|tumou?r)(?: tumou?r)? "
    r"(?:margins?|edges?|borders?)\b(?![^.;]*\b(?:free|clear|negative|positive|involved|uninvolved))",
    r"\b(?:intra-?operative|frozen[- ]section) (?:consultations?|examinations?|evaluations?|assessments?|diagnos[ei]s)(?:, including [^,;]*,)? (?:\w+ly )?"
    r"(?:identified|confirmed|revealed|showed|indicated|demonstrated)\b|\bin (?:the )?(?:\w+ )?frozen sections?\b",
    r"\bmargins? of the (?:nests?|islands?|glands?|section|tissue|slide|fragments?)\b",
    r"\bper (?:\d+ ?)?(?:mm|square mm)\b|\b(?:H ?& ?E|ha?ematoxylin)[- ]stain\w*|\bgrossly cystic\b",
    r"\bpatient (?:has|had|exhibit(?:s|ed)|show(?:s|ed)|demonstrat(?:es|ed))\b(?! (?:an? )?(?:\w+ )?(?:history|symptom|pain|mass))|"
    r"\b(?:from|in|of) (?:an? |the |this )?(?:\w+ )?patient\b|\bconsistent with (?:a )?(?:previous|prior) biopsy\b",
    r"\b(?:\w*therapy|treatment|radiation)[- ](?:induced|related|associated)(?: \w+)? (?:changes?|effects?|atypia|fibrosis|regression|"
    r"necrosis)|\b(?:(?:neo-?adjuvant|adjuvant|pre-?surgical|prior|previous) )*(?:\w*therapy|treatment|radiation) effects?\b|\b(?:nodal|lymph node) architecture\b|"
    r"\b(?:in|from|of|on) (?:any|all|each|none|\d+|one|two|three)(?: (?:of (?:the |these )?)?(?:\d+ )?)(?:\w+ )?blocks?\b|\bin blocks? \w?\d+(?:(?:, | and | & )\w?\d+)*",
    r"\bHPV[- ](?:related|associated)\b|\bpatient (?:was|is|has been) diagnosed with\b|\bdisease stage of maturation\b|\bcorrelating (?:with|to) an? (?:\w+ )?score\b",
    r"\bsubmitted (?!for\b|in\b|as\b|entirely\b|and\b|to\b)(?:[\w-]+ ){0,3}(?:tissues?|specimens?|sections?|samples?|fragments?|material|lobes?|parts?)\b",
    r"\b(?:tissues?|specimens?|material|fragments?) (?:submitted|received|label+ed) (?:as|from)\b(?=.{0,80}\b(?:contain|show|reveal|"
    r"demonstrat|exhibit)\w*)|\boutside (?:of )?(?:the |any )?lymph nodes\b",
)

# --- Polarity --------------------------------------------------------------------------------------------------------
SEEN = (
    r"(?:identified|seen|present|observed|noted|detected|found|evident|demonstrated|appreciated|visible|visuali[sz]ed|"
)
SEEN += r"recogni[sz]ed|apparent|shown|encountered|discernible|recogni[sz]able|involved|infiltrated|invaded)"
AUXILIARY = r"(?:is|are|was|were|be|been|being)"
_BE = rf"\b{AUXILIARY}"
# {be} is the auxiliary that was met, {s} its third person; <verb> gives the verb after "does not" its ending back.
_DENIALS: tuple[tuple[str, str], ...] = (
    (r"\b(?:there (?:is|are|was|were) )?(?:an? )?(?:complete |total )?(?:absence|lack) of\b", "presence of"),
    (r"\b(?:do|does|did)(?: not|n['’]t) (?=\w)", "<verb>"),
    (r"\bfail(?:s|ed|ing)? to (?=\w)", "<verb>"),
    (_BE + r" (?:\w+ly )?not (?=\w)|\b(?:is|are|was|were)n['’]t ", "{be} "),
    (_BE + r" (?:\w+ly )?(?:ruled out|excluded|lost)\b", "{be} present"),
    (r"\b(?:(?:has|have|had) )?(?:rules|ruled|ruling) out\b|\b(?:has|have) excluded\b|\bexcludes\b", "shows"),
    (r"(?:^|(?<=s ))(?:rule out|exclude)\b", "show"),
    (r"\b(?:cannot|can ?not|can['’]t|could not|couldn['’]t) (?=\w)", "can "),
    (_BE + r" (?:\w+ly )?(?:devoid of|free (?:of|from)|clear of|without)\b(?: any)?", "contain{s}"),
    (_BE + r" (?:\w+ly )?(?:uninvolved|unaffected|spared)\b", "{be} involved"),
    (r"(?<!-)\bsparing\b|(?<!-)\bspares\b", "involving"),
    (r"\bun(?:involved|affected) by\b|(?<=\w )un(?:involved|affected)(?=\s*(?:$|[.,;]))", "involved by"),
    (
        r"(?:(?<=remains )|(?<=remain )|(?<=remained )|(?<=appears )|(?<=appear )|(?<=appeared )|(?<=being ))"
        r"(?:uninvolved|unaffected|spared|free|clear)\b(?! (?:of|from)\b)",
        "involved",
    ),
    (_BE + r" (?:\w+ly )?free(?=\s*(?:$|[.,;(]|at\b|by\b))", "{be} involved"),
    (r"(?:(?<=margins )|(?<=margin ))(?:is|are|was|were) (?:\w+ly )?clear\b(?! of)", "{be} involved"),
    (r"\bunable to (?=\w)", "able to "),
    (r"\bnothing\b", "something"),
    (r"\bnever\b|\bnowhere\b", ""),
    (r"\b(?:0|zero) ?(?:/|of|out of) ?(?=\d)", ""),
    (r"\bneither\b", ""),
    (r"\bnor\b", "and"),
    (r"\bwithout (?:any |definite )?(?:evidence|signs?|indication) of\b", "with"),
    (r"\bwithout(?: any)?\b|\bw/o(?:ut)?\b(?: any)?", "with"),
    (r"\b(?:devoid of|free (?:of|from)|clear of)\b", "with"),
    (r"\b(?:negative|neg\.?|-ve) for\b", "positive for"),
    (r"\bunremarkable for\b", "positive for"),
    (r"\blacks\b", "shows"),
    (r"\black\b(?! of)", "show"),
    (r"\black(?:ing|ed)\b", "showing"),
    (r"\babsent\b", "present"),
    (r"\babsence\b", "presence"),
    (r"(?<=[:=])\s*(?:none|no|nil|[∅ø⌀]|negative|neg|zero|\(-\)|\(−\))\.?(?=\s*(?:$|[.,;(]))", " present"),
    (r"(?<=[:=])\s*0(?: ?%|/\d+| ?(?:/|per) ?(?:\d+ )?(?:hpf|mm ?[2²]?|sq\.? ?mm))?(?=\s*(?:$|[.,;(]))", " present"),
    (r"(?:(?<=is)|(?<=are)|(?<=was)|(?<=were))\s+negative(?=\s*(?:$|[.,;(]))", " positive"),
    (r"(?<=[a-z]{4})-free\b(?! (?:survival|interval|period|text))(?<!\bpain-free)(?<!\bsymptom-free)", "-involved"),
    (r"(?<=\btumor)[- ]free\b|(?<=\btumour)[- ]free\b|(?<=\bcancer)[- ]free\b|(?<=\bcarcinoma)[- ]free\b", " involved"),
    (r"(?<=\w)\s*\(\s*[-−–]\s*\)", " (+)"),  # "Perineural invasion (-)", "LVI-"
    (
        r"(?<=\b[A-Z]{2})\s?[-−–](?=\s*(?:$|[.,;]))|(?<=\b[A-Z]{3})\s?[-−–](?=\s*(?:$|[.,;]))|(?<=\b[A-Z]{4})\s?[-−–](?=\s*(?:$|[.,;]))",
        "+",
    ),
    (r"(?<=[^\W\d_]{2}) neg\b\.?(?=\s*(?:$|[.,;)]))", " pos"),
    (r"\bnil(?: evidence of)?\b", "present"),
    (r"\bnone of\b", ""),
    (r"\bnone\b", "some"),
    (r"\bnot\b", ""),
    (r"\bno\b", ""),
)
_RARE = r"(?:infrequent\w*|uncommon\w*|unusual\w*|rare\w*|insignificant\w*)"
_GONE = r"(?:without|absent|absence|devoid of|free of|free from|negative|lack(?:ing)?|missing)"
_PSEUDO = (
    r"\bno (?:significant |definite |appreciable |further |obvious )?(?:increase|decrease|change|progression|"
    r"difference|doubt)s?\b",
    r"\b(?:little|minimal|mild|few|rare|scant) (?:to|or) (?:no|none|absent)\b",
    r"\bno (?:longer|more than|less than|fewer than)\b|\bnot more than\b|\bno\. ?(?:[A-Z]{1,4}-?)?\d+",
    rf"\bnot (?:only|just|merely|simply|necessarily|always|entirely|{_RARE}|"
    r"certain|clear|limited to|restricted to|confined to)\b|\bnot un\w+",
    r"\b(?:not|nothing|no) (?:otherwise|further) (?:specified|classified|categori[sz]ed)\b",
    r"\b(?:of )?no (?:special|specific|particular) (?:histologic(?:al)? )?(?:sub)?type\b|\bnot of special type\b",
    rf"\b(?:not|no|never|nowhere|none) (?:completely |entirely |wholly )?{_GONE}\b",
    rf"\b(?:no|none|not a|neither)\b[^,;.]{{1,40}}? (?:is|are|was|were) (?:\w+ly )?{_GONE}\b",
    r"\black(?:s|ing)? (?:\w+ )?(?:differentiation|cohesion|maturation)\b",
    r"\black of (?:an? )?(?:specific|special|further|(?:\w+ )?(?:differentiation|cohesion|maturation))\b|\b(?:do|does|did) not lack\b|\bno (?:lack|absence|shortage) of\b|\bnot fail to\b|\bwithout exception\b",
    r",\s*(?:though|although|albeit|but|if) not (?:\w+ )?\w+\s*(?=,)",
    r"\bwith or without\b|\bwhether or not\b|\b(?:gram|triple)[- ]negative\b|\bwithout (?:difficulty|delay)\b",
)
_OUT = r"(?:exclude[ds]?|rule[ds]? out|ruling out|excluding)"
_DOUBTS = (
    rf"\b(?:cannot|can ?not|can['’]t|could not|couldn['’]t|unable to|impossible to|difficult to|hard to|(?:do|does|did|"
    rf"has|have|had|is|are|was|were) not|(?:is|are|was|were|has|have|do|does)n['’]t|not) (?:be )?(?:been )?"
    rf"(?:\w+ly )?(?:be )?{_OUT}\b",
    r"\bno (?:\w+ )?exclusion\b|\bwithout (?:\w+ )?excluding\b",
    rf"\bto {_OUT}\b|\br/o\b|\?\s*(?=\w+\W*$)|^\W*\?(?=\s*\w)|\w ?\?\W*$",
    # "The tumour-free liver shows steatosis": what is free of something, and something else of it.
    r"\b[a-z]{4,}-free (?!margins?\b)(?:\w+ ){1,3}(?:shows?|showed|with|contains?|contained|exhibits?|exhibited|has|have|had|reveals?|revealed|displays?|demonstrates?|demonstrated)\b",
    r"\b(?:no|not)\b.{0,60}\bwith certainty\b|\b(?:absent|present|identified)\s*[:=]\s*(?:[xX_✓]+(?!\w)|$)",
    r"\b(?:absence|lack) of (?:any )?(?:definit\w+|convincing|unequivocal|clear[- ]cut|conclusive)\b",
    r"\b(?:definit\w+|convincing|unequivocal) (?:[\w-]+ ){1,4}(?:is|are|was|were) not\b",
    r"\bno clear (?:evidence|signs?|indication)\b",
    r"\bno(?:t)? (?:definit\w+|convincing\w*|unequivocal\w*|certain\w*|clear[- ]cut|conclusive\w*)\b",
    r"\bnot \w+ (?:any )?(?:definit\w+|convincing|unequivocal|clear[- ]cut|conclusive)\b",
    r"\bwithout (?:an? |any )?(?:definit(?:iv)?e|convincing|unequivocal|clear[- ]cut|conclusive)\b",
    r"\b(?:definit\w+|convincing|unequivocal|conclusive|clear[- ]cut) (?:\w+ )?(?:evidence|features?|signs?|proof|\w+ invasion)\b"
    r".{0,60}\b(?:not|absent|lacking|lacks?|missing)\b",
    r"\b(?:not|non-?|neither) (?:\w+ly )?(?:diagnostic|specific|sufficient|typical|characteristic|pathognomonic)\b",
    r"\b(?:argu|speak|militat|weigh)\w* (?:strongly )?against\b|\bfalls? short of\b|\binsufficient for\b|\bnot (?:amount\w*|unlikely)\b|\brather than\b|\bas opposed to\b",
    r"\b(?:equivocal|indeterminate|inconclusive|uncertain\w*|questionabl[ey]|doubtful|borderline features)\b",
    r"\bnot (?:all|every|each|always)\b|\b(?:hardly|scarcely|barely) any\b|\bif any\b|\bno longer\b|\bpreviously (?:present|"
    r"seen|identified|described)\b|\b(?:little|minimal|mild|few|rare|scant) (?:to|or) (?:no|none|absent)\b|\bnone (?:to|or)\b",
    r"\b(?:present|yes|positive|identified)\s*/\s*(?:absent|no|not|negative)\b|\b(?:absent|no|none|negative|not \w+)\s*/\s*"
    r"(?:present|yes|positive)\b",
    r"\bno more \w+ than\b|\bnot (?:any )?more \w+ than\b",
    r"\bun(?:certain|clear|likely|proven|confirmed)\b|\bnot (?:certain|clear|sure)\b",
)
_HEDGES = (
    r"\bsuspicio\w+|\bsuspect\w*|\bconcerning for\b|\bworrisome\b|\bpossib(?:le|ly|ility)\b|\bprobabl[ey]\b|\blikely\b",
    r"\bfavou?r(?:s|ed|ing)?\b(?! (?:the|a) \w+ (?:location|site))|\bsuggest\w*|\braises?\b.{0,20}\b(?:possibility|question)",
    r"\b(?:may|might|could) (?:\w+ly )?(?:be|represent|reflect|indicate|have|contain|correspond|also)\b|\bpresum\w+",
    r"\bdifferential diagnos[ie]s\b|\bDDx?\b|\bversus\b|\bvs\b\.?|\bseems? to\b|\bprovisional(?:ly)?\b|\bqueried\b|\bquery\b",
)
_BREAKS = (
    r"\s*;\s*",
    r"(?<=\bneg),\s+|(?<=\bneg\.),\s+|(?<=\bpos),\s+|,\s+(?=(?:[\w-]+ ){1,2}(?:neg|pos)\b)",
    r"(?<=\w absent)\s+(?=(?:\w+ ){1,3}present\W*$)|(?<=\w present)\s+(?=(?:\w+ ){1,3}absent\W*$)",
    r",?\s+(?!however, (?:is|are|was|were|has|have|do|does)\b)\b(?:but(?! also\b)|although|though|while|whereas|however|except(?:ing)?(?: for)?|despite|yet|apart from|"
    r"aside from|other than|with the exception of|save for)\b,?\s+",
    r",\s+(?=with\b|no\b(?!\.)|not\b|neither\b|nor\b|none\b)",
    r",\s+and\s+(?=(?:multiple|numerous|several|many)\b[^,;]*\b(?:is|are|was|were|contains?|shows?)\b)",
    r",\s+and\s+(?=other\b.*\b(?:is|are|was|were) not (?:\w+ly )?(?:specified|reported|detailed|provided|described|mentioned|assessed)\b)",
    r",\s+and\s+(?=(?:\w+ly,? |also |additionally,? )?(?:there|the|this|these|it|its|all|some|no|focal|both|surgical|margins?)\b)",
    r"(?<!not),?\s+(?=without\b|w/o\b|with (?:no|(?:an? |the )?(?:\w+ )?(?:absence|lack) of)\b|in the absence of\b)",
    r"\s+(?:and|&)\s+(?=the \w+ (?:also )?(?:shows?|has|have|contains?|exhibits?)\b)",
    r"\s+and\s+(?=involv(?:ed|es) )|\s+and\s+(?=(?:classified|graded) as\b)|\s+and\s+(?=(?:is|are|was|were) (?:\w+ly )?(?!(?:confirm|support|verifi|consider|not|report|identifi|observ|"
    r"document|demonstrat|detect|exclud|appreciat|suspect|search|look)\w*)\w+ed\b)|\s+and\s+(?=(?:is|are|was|were) (?:\w+ly )?(?:classified|graded|accompanied|associated|notable|remarkable|characteri[sz]ed)\b)",
    r",\s+(?:and\s+)?(?=(?:the )?(?:presence|absence) of\b)|\s+and\s+(?=presence of\b)|(?:(?<=[-+−–])|(?<=[-+−–]\))|(?<=[-+−–] \)))[,;]\s+(?!(?:or|nor)\b)",
    NEXT_SENTENCE,
    r",?\s+(?:and|but)\s+(?=(?:with )?(?:an? |the )?(?:\w+ )?(?:absence|lack) of\b)|,\s+(?=(?:only|just|merely)\b)",
    r",\s+(?=alongside\b|accompanied by\b(?![^,]*,\s+(?:is|are|was|were|reveal|show|demonstrate|confirm|exhibit)))|,\s+(?=measuring\b)|\s+and\s+(?=(?:measure[sd]|weigh(?:s|ed)|show(?:s|ed)|exhibit(?:s|ed)|contain(?:s|ed)|extend(?:s|ed)|"
    r"demonstrate[sd]|reveal(?:s|ed)|is accompanied)\b)",
    r",\s+and\s+(?=(?:showing|exhibiting|demonstrating|displaying|containing|featuring|invading|infiltrating)\b)",
    r",\s+(?=(?:instead |only |just |either )?(?:showing|exhibiting|demonstrating|displaying|containing|revealing|featuring|consisting of)\b"
    r"(?!.{0,140}?,\s+(?:\w+ly )?(?:is|are|was|were|extends?|invades?|involves?|shows?|reveals?|measures?|has|have)\b))",
    r"\s+(?=sparing\b(?![^,;]{3,60},\s+\w+s?\b))|\s+(?=spares\b)",
    r",\s+(?=(?:indicating|signifying|denoting|reflecting|confirming|affirming) (?:an?|the|that|no|absence|lack)\b)",
    r",\s+(?=(?:invading|infiltrating|penetrating|extending)\b)",
    r",\s+(?=(?:consistent|compatible|in keeping) with\b)|,?\s+(?=(?:due|owing) to (?:the |an )?(?:absence|lack)\b)",
    r"\s+or\s+(?=no\b)|\s+(?:and|&)\s+(?=(?:no|without|absent|lacks?|lacking)\b|(?:is|are|was|were) (?:\w+ly )?(?:negative|free|devoid|without|absent)\b)",
    # What hangs behind a noun: "carcinoma lacking mucin", "nests showing no keratin", "a tumour that does not invade".
    r",\s+(?=absent (?!in\b|at\b|from\b|on\b|throughout\b|focally\b)[a-z]{4,})",
    r"(?<!\bis)(?<!\bare)(?<!\bwas)(?<!\bwere)(?<!ly),?\s+(?=(?:lacking|devoid of|free (?:of|from)|not \w+ing)\b)",
    r",?\s+(?=(?:showing|demonstrating|exhibiting|displaying|containing|having|revealing) (?:no|little|neither|an absence)\b)",
    r",?\s+(?=(?:in|from|within|on) which\b|whose\b|wherein\b)",
    r",\s+(?=which\b)|,?\s+(?=(?:which|that) (?:\w+ly )?(?:do|does|did|is|are|was|were|has|have|lacks?|shows?)\b)",
    r"\s+(?=(?:rules out|excludes|(?:has|have|had) (?:now |thus |also )?(?:ruled out|excluded))\b)",
    r"(?<=\ws) (?=(?:rule out|exclude)\b)",
    r"(?:,|\band|\bwith)\s+(?=(?:possibl[ey]|probabl[ey]|suspected|suspicious|questionable|equivocal|features? suspicious|"
    r"suggest\w+|favou?r(?:s|ed|ing)?|rather than)\b)|\s+(?=rather than\b)",
)
_FRAME = frozenset(
    """a an the this that these those there that it its is are was were be been has have had shows show showed showing
    reveals revealed reveal demonstrates demonstrated exhibits displays in on of at by for from to and or with all any
    section sections slide slides sample samples specimen biopsy tissue lesion tumor tumour tumors tumours examined
    material however also furthermore moreover otherwise examination evaluation analysis pathological microscopic
    histological histologic evidence sign signs present seen identified noted observed found detected as well here
    both which either contains extends diagnosis background remaining area areas field fields image region none no not
    neither nor we i deeper levels level further additional serial cuts work-up workup findings finding
    nothing""".split()
)
_DEGREES = frozenset(
    """frequent numerous prominent conspicuous extensive marked brisk diffuse widespread significant severe high many
    abundant plentiful pronounced striking well fully complete completely entirely wholly common particularly very
    especially overly excessively so uniformly everywhere always""".split()
)
_PREDICATES = frozenset(
    """absent present seen identified noted observed found evident nil none positive negative frequent brisk scarce
    rare marked mild moderate severe high low numerous few inconspicuous prominent conspicuous extensive focal diffuse
    scant scanty abundant increased unremarkable preserved intact normal""".split()
)

CUES = Cues(
    not_visual=NOT_VISUAL,
    not_visual_cased=NOT_VISUAL_CASED,
    visible_anyway=_VISIBLE_ANYWAY,
    findings=FINDINGS,
    empty=_EMPTY,
    denials=_DENIALS,
    pseudo=_PSEUDO,
    doubts=_DOUBTS,
    hedges=_HEDGES,
    breaks=_BREAKS,
    dependent=r"(?:with|without|all of|none of|of which|which|that|lacking|devoid|free of|free from|(?:only |instead |just )?(?:showing|"
    r"containing|exhibiting|demonstrating|displaying|revealing|featuring|consisting of)|sparing|(?:show|demonstrate|exhibit|contain|display|reveal)(?:e?d)?)\b|"
    r"(?:is|are|was|were|do|does|did|remains?|appears?|lacks?|shows?|has|have|exhibits?|confined|limited|restricted|the noted)\b",
    frame=_FRAME,
    degrees=_DEGREES,
    predicates=_PREDICATES,
    verbs=r"\b(?:is|are|was|were|has|have|had|shows?|reveals?|demonstrates?|exhibits?|displays?|contains?|lacks?|invades?|"
    r"infiltrates?|involves?|extends?|forms?(?= (?:an?|the|(?:\w+ )?(?:nests|glands|sheets|cords|tubules|papillae|masses|nodules))\b)|occup(?:y|ies)|surrounds?|grows?|predominates?|cannot|does|do)\b",
    yes=("yes", "y", "present", "positive", "pos", "identified", "seen", "+", "(+)", "detected", "found", "involved"),
    no=(
        "∅", "ø", "⌀",
        "no", "n", "none", "nil", "absent", "negative", "neg", "not identified", "not seen", "not present", "not found",
        "not detected", "not involved", "uninvolved", "(-)", "(−)", "0", "zero", "none identified", "none seen",
        "not evident", "not observed", "none present", "none found", "nil seen", "nil identified", "nil found", "none detected",
        "none noted", "none observed", "nil observed", "nil noted",
    ),
    open=(
        "?", "±", "+/-", "equivocal", "indeterminate", "uncertain", "suspicious", "possible", "probable", "-", "–", "—",
        "cannot be determined", "cannot be excluded", "not definite", "inconclusive", "suspected", "questionable",
    ),
    blank=(
        "n/a", "na", "not applicable", "unknown", "not assessed", "not assessable", "not evaluated", "not performed",
        "pending", "not reported", "not specified", "cannot be assessed", "cannot be evaluated", "not known", "see comment",
    ),
)  # fmt: skip
