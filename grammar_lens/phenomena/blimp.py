"""BLiMP by name: paradigms of minimal pairs, fetched once, cached, and checked on each use.

Warstadt et al. (2020), BLiMP: The Benchmark of Linguistic Minimal Pairs for English, TACL 8; CC BY 4.0.
"""

import difflib
from pathlib import Path

from grammar_lens.corpus.downloads import RemoteFile, address_of, cache_folder
from grammar_lens.errors import GrammarLensError

BASE_URL = "https://raw.githubusercontent.com/alexwarstadt/blimp"
COMMIT = "d07303a7662f1942d70c5e2bbac7aa021c6cdbd0"
LICENCE = "BLiMP (Warstadt et al. 2020), CC BY 4.0"
_NAMES = """
adjunct_island anaphor_gender_agreement anaphor_number_agreement animate_subject_passive
animate_subject_trans causative complex_NP_island
coordinate_structure_constraint_complex_left_branch
coordinate_structure_constraint_object_extraction determiner_noun_agreement_1
determiner_noun_agreement_2 determiner_noun_agreement_irregular_1
determiner_noun_agreement_irregular_2 determiner_noun_agreement_with_adj_2
determiner_noun_agreement_with_adj_irregular_1 determiner_noun_agreement_with_adj_irregular_2
determiner_noun_agreement_with_adjective_1 distractor_agreement_relational_noun
distractor_agreement_relative_clause drop_argument ellipsis_n_bar_1 ellipsis_n_bar_2
existential_there_object_raising existential_there_quantifiers_1 existential_there_quantifiers_2
existential_there_subject_raising expletive_it_object_raising inchoative intransitive
irregular_past_participle_adjectives irregular_past_participle_verbs
irregular_plural_subject_verb_agreement_1 irregular_plural_subject_verb_agreement_2
left_branch_island_echo_question left_branch_island_simple_question
matrix_question_npi_licensor_present npi_present_1 npi_present_2 only_npi_licensor_present
only_npi_scope passive_1 passive_2 principle_A_c_command principle_A_case_1 principle_A_case_2
principle_A_domain_1 principle_A_domain_2 principle_A_domain_3 principle_A_reconstruction
regular_plural_subject_verb_agreement_1 regular_plural_subject_verb_agreement_2
sentential_negation_npi_licensor_present sentential_negation_npi_scope sentential_subject_island
superlative_quantifiers_1 superlative_quantifiers_2 tough_vs_raising_1 tough_vs_raising_2
transitive wh_island wh_questions_object_gap wh_questions_subject_gap
wh_questions_subject_gap_long_distance wh_vs_that_no_gap wh_vs_that_no_gap_long_distance
wh_vs_that_with_gap wh_vs_that_with_gap_long_distance
"""
UIDS = tuple(_NAMES.split())
"""The 67 paradigms of BLiMP."""
BLOB_IDS = {
    "adjunct_island": "e2b90a7a52ce5814147eaa9d3ab1695d4945ee99",
    "anaphor_gender_agreement": "c0bcabdf757ee96f2b16642525899a09e341a352",
    "anaphor_number_agreement": "60f2e3ae7e31db6cc39bbeaa2d617b053294a54e",
    "determiner_noun_agreement_1": "0371d50db2793a9c8e8c595b03bde41f5005a931",
    "determiner_noun_agreement_2": "daaee047ecdea0461f61a8c03613c6359b15ba21",
    "determiner_noun_agreement_with_adj_2": "c4a4bc8855f504a09a4540190c3d2257392782f4",
    "distractor_agreement_relational_noun": "d454cd7d6b293866b427b6759b88fbb8b9c646bf",
    "distractor_agreement_relative_clause": "ebc95e27000b7febd42c85151de1cb4a3aa33054",
    "ellipsis_n_bar_1": "7993468a2e4947682892753209e2564dbd18a01b",
    "existential_there_quantifiers_1": "7708d54c4c92def643c3bdab7a71b2a9ae82e96b",
    "irregular_past_participle_adjectives": "59833aff857d635689685ffc699d4c8d5560c396",
    "irregular_past_participle_verbs": "89f57d5a7513ef1577ff4bc7533948320fb8130d",
    "irregular_plural_subject_verb_agreement_1": "99a06c91da16d40695e3cfadeef69609b8e6e992",
    "npi_present_1": "eccaaa35995ac0ead2751ab6df109d67a9fd20c5",
    "passive_1": "9df36a61ba48c6c05c26d01be61a942b75b49ffa",
    "principle_A_case_1": "5e05bff424927ea25bbad964ff2df179f2103186",
    "regular_plural_subject_verb_agreement_1": "846083500c7e341c24c1f7411aa624de85f148bb",
    "regular_plural_subject_verb_agreement_2": "a0a39113346823981537f4bbdd4635c87eaed1e5",
    "transitive": "6c97f105c0ddeaf86acc436058e659b4e900c14d",
    "wh_questions_object_gap": "f282de6e19c294dd3039e5f54a595e9a40ce5c0b",
}
"""Git blob ids at that commit, where they are known; of other files the first download is enforced."""


def require_uid(uid: str) -> None:
    """Raises GrammarLensError, with the nearest names, for what is no paradigm of BLiMP."""
    if uid in UIDS:
        return
    lower = {name.lower(): name for name in UIDS}
    near = [lower[x] for x in difflib.get_close_matches(uid.lower(), lower, 3, 0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else "such as blimp:passive_1, or blimp:all"
    raise GrammarLensError(f"BLiMP has no paradigm {uid!r}: {hint}")


def fetch(uid: str, *, base_url: str | None = None) -> tuple[Path, tuple[str, ...]]:
    """The file of a paradigm in the cache, and notes on how it was checked.

    The file is at `{base_url}/{commit}/data/{uid}.jsonl`; the environment variable
    GRAMMAR_LENS_BLIMP_URL stands in for `base_url`, GRAMMAR_LENS_CACHE for the cache folder.
    Raises GrammarLensError for an unknown paradigm, no connection, and a wrong file.
    """
    require_uid(uid)
    base = address_of(base_url, "GRAMMAR_LENS_BLIMP_URL", BASE_URL)
    folder = cache_folder() / "blimp" / COMMIT
    version = f"commit {COMMIT[:8]}"
    source = RemoteFile(
        folder, f"{base}/{COMMIT}/data/", f"{uid}.jsonl", version, BLOB_IDS.get(uid)
    )
    notes = [LICENCE]
    path = source.fetch(notes)
    if path is None:
        raise GrammarLensError(
            f"{source.address} is not there: download the paradigm by other means and give its path"
        )
    return path, tuple(notes)
