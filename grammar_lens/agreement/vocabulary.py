"""Words and frames of the minimal pairs, chosen by hand for this project.

They are frequent and a little old-fashioned, for the embedded model learned from old books; every
word that differs between the sentences of a pair is one of its tokens. What is left out, lest a
"bad" sentence be grammatical: verbs whose past is the bare form (put, read, cost), verbs that take a
bare infinitive or a clause in the place of an object (see, let, help; know, find, want), `have`
after "why" (why have the man come?) and `were` at the head of a sentence (were the man here, ...),
participles without an ending (the man come from the north), and nouns with one form for both numbers.
"""

Noun = tuple[str, str]
"""Singular and plural."""
Verb = tuple[str, str]
"""As a singular and as a plural subject has it."""
Predicate = tuple[Verb, str]
"""A verb and what stands after it."""

BE, WAS, HAVE, DO = ("is", "are"), ("was", "were"), ("has", "have"), ("does", "do")

IRREGULAR = {"man": "men", "woman": "women", "child": "children"}


def noun(word: str) -> Noun:
    """A noun in both numbers."""
    if word in IRREGULAR:
        return word, IRREGULAR[word]
    if word.endswith("y") and word[-2] not in "aeiou":
        return word, f"{word[:-1]}ies"
    return word, f"{word}es" if word.endswith(("ch", "sh", "x", "s")) else f"{word}s"


def nouns(singular: str) -> tuple[Noun, ...]:
    """Nouns in both numbers from their singulars, by blanks."""
    return tuple(noun(word) for word in singular.split())


PEOPLE = nouns(
    "boy girl man woman child friend brother sister soldier king lady servant officer guest "
    "prisoner visitor stranger daughter son father priest master doctor captain teacher sailor "
    "farmer student"
)
THINGS = nouns(
    "book letter picture house boat ship garden road tree flower door gate wall table chair bell "
    "song story stone window field room bed box lamp bridge church ring"
)
SEEN = nouns(
    "book letter picture house boat ship garden road tree flower door gate wall table chair bell "
    "song story stone window horse dog hill field room bed rock city star mountain street island "
    "paper bird"
)
"""Things and animals, both numbers of which are single tokens."""
MET = nouns(
    "boy girl man woman child friend brother sister soldier lady servant officer guest prisoner "
    "visitor stranger daughter son"
)

PERSON_DOES: tuple[Predicate, ...] = (
    (BE, "very tired"),
    (WAS, "full of joy"),
    (HAVE, "no money"),
    (("lives", "live"), "in the village"),
    (BE, "afraid of the dark"),
    (WAS, "ready to go"),
    (HAVE, "much to learn"),
    (("works", "work"), "in the fields"),
    (BE, "very poor"),
    (WAS, "quite happy"),
    (HAVE, "nothing to say"),
    (("walks", "walk"), "to the church every day"),
    (BE, "angry with the king"),
    (WAS, "too weak to fight"),
    (HAVE, "a house by the sea"),
    (("speaks", "speak"), "very little"),
    (BE, "far from home"),
    (WAS, "in the garden"),
    (HAVE, "some bread and wine"),
    (("wants", "want"), "some water"),
    (("needs", "need"), "more time"),
    (("tells", "tell"), "a strange story"),
    (("thinks", "think"), "about the war"),
    (("loves", "love"), "the sea"),
    (("looks", "look"), "very young"),
    (("seems", "seem"), "quite strong"),
    (("goes", "go"), "to school"),
    (("shows", "show"), "great courage"),
    (("stands", "stand"), "near the window"),
    (("takes", "take"), "a long walk every morning"),
    (("holds", "hold"), "a lamp"),
    (("feels", "feel"), "the cold"),
)
THING_DOES: tuple[Predicate, ...] = (
    (BE, "very old"),
    (WAS, "quite new"),
    (HAVE, "no name"),
    (("seems", "seem"), "very strange"),
    (BE, "of great value"),
    (WAS, "too small"),
    (HAVE, "a long history"),
    (("looks", "look"), "very beautiful"),
    (BE, "hard to find"),
    (WAS, "well known"),
    (HAVE, "a great charm"),
    (("belongs", "belong"), "to the king"),
    (BE, "not far from here"),
    (WAS, "not so large"),
    (HAVE, "some value"),
    (("appears", "appear"), "quite safe"),
    (("means", "mean"), "a great deal to me"),
    (("brings", "bring"), "us great joy"),
    (("gives", "give"), "me much pleasure"),
    (("remains", "remain"), "in the dark"),
    (("makes", "make"), "the king happy"),
    (("needs", "need"), "great care"),
)

PERSON_BESIDE: tuple[tuple[str, str], ...] = (
    *(("man", "with the {dog}"), ("woman", "beside the {window}"), ("boy", "on the {horse}")),
    *(("child", "near the {door}"), ("soldier", "behind the {wall}"), ("servant", "of the {lady}")),
    *(("friend", "of the {doctor}"), ("brother", "of the {officer}"), ("girl", "by the {river}")),
    *(("teacher", "of the {child}"), ("sister", "of the {priest}"), ("captain", "of the {ship}")),
    *(("guest", "from the {city}"), ("stranger", "at the {gate}"), ("lady", "in the {carriage}")),
    *(("prisoner", "in the {tower}"), ("sailor", "from the {island}"), ("king", "of the {land}")),
    *(("daughter", "of the {farmer}"), ("visitor", "in the {garden}")),
)
THING_BESIDE: tuple[tuple[str, str], ...] = (
    *(("letter", "from the {friend}"), ("picture", "of the {ship}"), ("book", "about the {king}")),
    *(("road", "to the {village}"), ("door", "of the {room}"), ("window", "above the {tree}")),
    *(("song", "about the {soldier}"), ("story", "about the {lady}"), ("bridge", "by the {house}")),
    *(("house", "behind the {hill}"), ("garden", "beside the {church}"), ("chair", "by the {bed}")),
    *(("box", "under the {table}"), ("boat", "near the {rock}"), ("gate", "of the {garden}")),
    *(("wall", "around the {field}"), ("flower", "beside the {stone}"), ("tree", "by the {river}")),
    *(("lamp", "over the {door}"), ("bell", "of the {church}")),
)
"""A noun and a phrase after it, whose noun in braces is the attractor."""

DID_TO_PERSON = (
    *("met", "followed", "loved", "visited", "hated", "saved", "served", "attacked", "joined"),
    "carried",
)
DID_TO_THING = (
    *("bought", "sold", "lost", "cleaned", "loved", "painted", "broke", "stole", "admired"),
    *("visited", "burned"),
)

PERSON_QUESTION: tuple[tuple[str, Verb, str], ...] = (
    *(
        ("Why", BE, "so sad"),
        ("Where", DO, "live"),
        ("What", HAVE, "done"),
        ("Why", WAS, "so angry"),
    ),
    *(("When", BE, "coming back"), ("Why", DO, "hate the king"), ("Where", HAVE, "gone")),
    *(("Where", WAS, "this morning"), ("How old", BE, ""), ("What", DO, "want from us")),
    *(("How long", HAVE, "been here"), ("How", WAS, "saved"), ("What", BE, "afraid of")),
    *(("Why", DO, "weep"), ("When", HAVE, "been there"), ("Why", WAS, "not happy")),
    *(("Why", BE, "in the garden"), ("How", DO, "know the truth"), ("Where", BE, "going")),
    *(("What", WAS, "thinking of"),),
)
THING_QUESTION: tuple[tuple[str, Verb, str], ...] = (
    *(
        ("Where", BE, "now"),
        ("What", DO, "mean to you"),
        ("When", WAS, "lost"),
        ("How old", BE, ""),
    ),
    *(("What", HAVE, "become"), ("Where", DO, "come from"), ("Why", WAS, "never found")),
    *(("Why", BE, "so strange"), ("Why", DO, "look so old"), ("How", HAVE, "been saved")),
    *(("When", WAS, "made"), ("How long", BE, ""), ("Why", DO, "please the king")),
    *(("How long", HAVE, "been lost"), ("Where", WAS, "last year"), ("Why", BE, "so dear to you")),
    *(("How", DO, "look today"), ("Why", WAS, "not sold"), ("Where", HAVE, "been all this time")),
    *(("Why", BE, "here"),),
)
"""A question word, the verb before the subject, and what stands after it."""

DETERMINERS = (("this", "these"), ("that", "those"))
THING_SENTENCES = (
    *("The king loved {} very much.", "She painted {} yesterday.", "He described {} to me."),
    *("Her brother admired {} greatly.", "They passed {} in the morning.", "He chose {} at once."),
    *("My father praised {} once more.", "The old woman liked {} at first."),
    *("The children drew {} again.", "My uncle hated {} for years."),
)
PERSON_SENTENCES = (
    *("My mother met {} in the village.", "The king hated {} with all his heart."),
    *("She followed {} through the wood.", "He saved {} from the fire."),
    *("We visited {} after dinner.", "They attacked {} on the road."),
    *("The doctor joined {} at last.", "The captain carried {} to the boat."),
)
THING_LOOKS = (
    *("old", "new", "little", "great", "strange", "beautiful", "small", "large", "dark", "white"),
)
PERSON_LOOKS = (
    *("old", "young", "little", "poor", "strange", "beautiful", "rich", "wise", "happy", "sad"),
)
