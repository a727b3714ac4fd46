"""The code that begins the file names of each Universal Dependencies language.

Source: the treebanks of UD releases up to 2.16, https://universaldependencies.org
"""

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
