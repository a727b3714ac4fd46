"""Named Universal Dependencies treebanks -> cached files, their checksums checked on each use."""

import re
from dataclasses import dataclass
from pathlib import Path

from grammar_lens.corpus.downloads import RemoteFile, address_of, cache_folder
from grammar_lens.errors import GrammarLensError, nearest

BASE_URL = "https://raw.githubusercontent.com/UniversalDependencies"
RELEASE = "r2.16"
SPLITS = ("train", "dev", "test")
NAME = re.compile(r"UD_(?P<language>\w+)-(?P<treebank>\w+)(:(?P<split>.+))?", re.ASCII)

# Git blob ids at tag r2.16, computed from files whose SHA-256 public projects list for that tag:
# two projects for English-EWT (one names the commit behind the tag, 4c89b583), one for
# Chinese-GSDSimp. Files that are not here have no such witness.
BLOB_IDS = {
    "en_ewt-ud-train.conllu": "34731d23bafeeff233fdcee18ffc0254b1aa0e28",
    "en_ewt-ud-dev.conllu": "a994b6990643429070ecc6e236d26ad6a04bfefb",
    "en_ewt-ud-test.conllu": "c59667960ae967636606f47bc35f132a5557ad39",
    "zh_gsdsimp-ud-test.conllu": "daf66c2f911333c4c2821d09b5a81f2180a0d60f",
}


@dataclass(frozen=True)
class UDName:
    """The parts of a name such as UD_English-EWT:train; `split` is None for all of them."""

    language: str
    treebank: str
    split: str | None

    @classmethod
    def parse(cls, source: str) -> "UDName":
        """The parts of a source that begins with `UD_`.

        Raises GrammarLensError if it has another form, an unknown language or an unknown split.
        """
        match = NAME.fullmatch(source)
        if match is None:
            raise GrammarLensError(
                f"cannot read {source!r}: expected a name such as UD_English-EWT or "
                "UD_English-EWT:train, or the path of a file or folder that exists"
            )
        language, split = match["language"], match["split"]
        if language not in LANGUAGE_CODES:
            near = nearest(language, LANGUAGE_CODES)
            hint = f"did you mean {near}? Else " if near else ""
            raise GrammarLensError(
                f"unknown language {language!r} in {source!r}: {hint}download the treebank and "
                "give the path of its folder"
            )
        if split not in (None, *SPLITS):
            raise GrammarLensError(
                f"{source!r} asks for the split {split!r}: expected {', '.join(SPLITS)}"
            )
        return cls(language, match["treebank"], split)

    @property
    def repository(self) -> str:
        """Name of the repository that holds the treebank."""
        return f"UD_{self.language}-{self.treebank}"

    def file(self, split: str) -> str:
        """Name of the file of one split."""
        return f"{LANGUAGE_CODES[self.language]}_{self.treebank.lower()}-ud-{split}.conllu"


def fetch(name: UDName, *, base_url: str | None = None) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Files of the splits asked for that the treebank has, and notes on how they were checked.

    Files are at `{base_url}/{repository}/{release tag}/{file}`; the environment variable
    GRAMMAR_LENS_UD_URL stands in for `base_url`, GRAMMAR_LENS_CACHE for the cache folder. A file
    whose git blob id is known is checked against it, any other against its first download.
    Raises GrammarLensError if there is no such split or treebank, no connection, or a wrong file.
    """
    base = address_of(base_url, "GRAMMAR_LENS_UD_URL", BASE_URL)
    folder = cache_folder() / "ud" / RELEASE / name.repository
    url = f"{base}/{name.repository}/{RELEASE}/"
    files: dict[str, Path] = {}
    notes: list[str] = []
    absent: list[RemoteFile] = []
    for split in (name.split,) if name.split else SPLITS:
        file = name.file(split)
        source = RemoteFile(folder, url, file, f"release {RELEASE}", BLOB_IDS.get(file))
        if source.known_absent:
            continue
        path = source.fetch(notes)
        if path is None:
            absent.append(source)
        else:
            files[split] = path
    if not files:
        raise GrammarLensError(
            f"{url} has no {name.file(name.split or 'train')}: the treebank or its split is not in "
            f"release {RELEASE}, or is there in parts; see "
            f"https://github.com/UniversalDependencies/{name.repository}, or give the path of files "
            "that you have"
        )
    for source in absent:
        # The tag never moves: remember it, so that the cached splits load without a connection.
        source.remember_absent()
    return files, tuple(notes)


_PAIRS = """
Abaza abq, Abkhaz ab, Afrikaans af, Akkadian akk, Akuntsu aqz, Albanian sq, Amharic am,
Ancient_Greek grc, Ancient_Hebrew hbo, Apurina apu, Arabic ar, Armenian hy, Assyrian aii,
Azerbaijani az, Bambara bm, Basque eu, Bavarian bar, Beja bej, Belarusian be, Bengali bn,
Bhojpuri bho, Bororo bor, Breton br, Bulgarian bg, Buryat bxr, Cantonese yue, Catalan ca,
Cebuano ceb, Chinese zh, Chukchi ckt, Classical_Armenian xcl, Classical_Chinese lzh, Coptic cop,
Croatian hr, Czech cs, Danish da, Dutch nl, Egyptian egy, English en, Erzya myv, Esperanto eo,
Estonian et, Faroese fo, Finnish fi, French fr, Frisian_Dutch qfn, Galician gl, Georgian ka,
German de, Gheg aln, Gothic got, Greek el, Guajajara gub, Guarani gn, Gujarati gu, Gwichin gwi,
Haitian_Creole ht, Hausa ha, Hebrew he, Highland_Puebla_Nahuatl azz, Hindi hi, Hindi_English qhe,
Hittite hit, Hungarian hu, Icelandic is, Indonesian id, Irish ga, Italian it, Japanese ja,
Javanese jv, Kaapor urb, Kangri xnr, Karelian krl, Karo arr, Kazakh kk, Khunsari kfm, Kiche quc,
Komi_Permyak koi, Komi_Zyrian kpv, Korean ko, Kurmanji kmr, Kyrgyz ky, Latgalian ltg, Latin la,
Latvian lv, Ligurian lij, Lithuanian lt, Livvi olo, Low_Saxon nds, Luxembourgish lb,
Macedonian mk, Madi jaa, Maghrebi_Arabic_French qaf, Makurap mpu, Malayalam ml, Maltese mt,
Manx gv, Marathi mr, Mbya_Guarani gun, Moksha mdf, Munduruku myu, Naija pcm, Nayini nyq,
Neapolitan nap, Nheengatu yrl, North_Sami sme, Norwegian no, Occitan oc,
Old_Church_Slavonic cu, Old_East_Slavic orv, Old_French fro, Old_Irish sga, Old_Turkish otk,
Ottoman_Turkish ota, Pashto ps, Paumari pad, Persian fa, Phrygian xpg, Polish pl, Pomak qpm,
Portuguese pt, Romanian ro, Russian ru, Sanskrit sa, Scottish_Gaelic gd, Serbian sr, Sindhi sd,
Sinhala si, Skolt_Sami sms, Slovak sk, Slovenian sl, Soi soj, South_Levantine_Arabic ajp,
Spanish es, Spanish_Sign_Language ssp, Swedish sv, Swedish_Sign_Language swl, Swiss_German gsw,
Tagalog tl, Tamil ta, Tatar tt, Teko eme, Telugu te, Telugu_English qte, Thai th, Tswana tn,
Tupinamba tpn, Turkish tr, Turkish_English qti, Turkish_German qtd, Ukrainian uk, Umbrian xum,
Upper_Sorbian hsb, Urdu ur, Uyghur ug, Uzbek uz, Veps vep, Vietnamese vi, Warlpiri wbp, Welsh cy,
Western_Armenian hyw, Western_Sierra_Puebla_Nahuatl nhi, Wolof wo, Xavante xav, Xibe sjo,
Yakut sah, Yoruba yo, Yupik ess, Zaar say
"""

_NAMES_AND_CODES = _PAIRS.replace(",", " ").split()
LANGUAGE_CODES: dict[str, str] = dict(
    zip(_NAMES_AND_CODES[::2], _NAMES_AND_CODES[1::2], strict=True)
)
