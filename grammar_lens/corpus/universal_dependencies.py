"""Named Universal Dependencies treebanks -> cached files, their checksums checked on each use."""

import hashlib
import json
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch

from grammar_lens.errors import GrammarLensError, nearest
from grammar_lens.files import make_folder, write_json

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
    base = (base_url or os.environ.get("GRAMMAR_LENS_UD_URL") or BASE_URL).rstrip("/")
    cache = Path(os.environ.get("GRAMMAR_LENS_CACHE") or pooch.os_cache("grammar-lens"))
    if not base.startswith(("http://", "https://")):
        raise GrammarLensError(
            f"expected an address that begins with http:// or https://: {base!r}"
        )
    folder = cache / "ud" / RELEASE / name.repository
    url = f"{base}/{name.repository}/{RELEASE}/"
    files: dict[str, Path] = {}
    notes: list[str] = []
    absent: list[_Source] = []
    for split in (name.split,) if name.split else SPLITS:
        source = _Source(folder, url, name.file(split))
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
        make_folder(source.folder)
        write_json(source.record_path, {"absent": source.address})
    return files, tuple(notes)


@dataclass(frozen=True)
class _Source:
    """One file of a treebank at its URL and in the cache."""

    folder: Path
    url: str
    file: str

    @property
    def address(self) -> str:
        return self.url + self.file

    @property
    def record_path(self) -> Path:
        return self.folder / f"{self.file}.json"

    @property
    def known_absent(self) -> bool:
        return self.record().get("absent") == self.address

    def record(self) -> dict[str, str]:
        """The sha256 and address of the first download, or the address it was absent from."""
        if not self.record_path.exists():
            return {}
        return json.loads(self.record_path.read_text(encoding="utf-8"))

    def fetch(self, notes: list[str]) -> Path | None:
        """The checked file in the cache, None if the server has none; adds to the notes."""
        if self.file in BLOB_IDS:
            return self._download(None, _BlobCheck(BLOB_IDS[self.file]))
        recorded = self.record().get("sha256")
        path = self._download(recorded, None)
        if path is None:
            return None
        if recorded:
            notes.append(f"{self.file}: equal to its first, unverified download")
            return path
        digest = pooch.file_hash(str(path))
        write_json(self.record_path, {"sha256": digest, "url": self.address})
        note = f"{self.file}: unverified download, no checksum is known for release {RELEASE}"
        notes.append(note)
        warnings.warn(
            f"{note}; its sha256 {digest} is recorded in {self.record_path} and enforced from now "
            "on",
            stacklevel=2,
        )
        return path

    def _download(self, sha256: str | None, check: "_BlobCheck | None") -> Path | None:
        registry: dict[str, Any] = {self.file: sha256}
        fetcher = pooch.Pooch(path=self.folder, base_url=self.url, registry=registry)
        try:
            return Path(fetcher.fetch(self.file, processor=check))
        except OSError as error:  # the errors of requests are OSErrors too
            if getattr(getattr(error, "response", None), "status_code", None) == 404:
                return None
            raise GrammarLensError(
                f"cannot fetch {self.address}: {error}. Download it by other means and give "
                "its path"
            ) from error
        except GrammarLensError:
            raise
        except ValueError as error:
            raise GrammarLensError(
                f"{self.address} is not the file that was first fetched: {error} If the "
                f"change is meant, delete {self.record_path}"
            ) from error


@dataclass(frozen=True)
class _BlobCheck:
    """A pooch processor that removes a file whose git blob id is not the expected one."""

    expected: str

    def __call__(self, fname: str, action: str | None, pooch: Any) -> str:
        actual = blob_id(Path(fname).read_bytes())
        if actual != self.expected:
            os.remove(fname)
            raise GrammarLensError(
                f"{fname} has git blob id {actual}, expected {self.expected} of release {RELEASE}: "
                "it was removed, run again to download it"
            )
        return fname


def blob_id(data: bytes) -> str:
    """Git's id of a file: SHA-1 over `blob <length>`, a zero byte and the content, in hex.

    Source: Pro Git, ch. 10.2, Git Objects.
    """
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


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
