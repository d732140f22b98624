"""How the mini world says things: every fact in many wordings, shared by documents, questions and imagined passages.

Values are noun phrases without an article, some of them plural, so that no template makes a value the subject of a
verb or puts an article before it. Templates start in lower case; `sentence` turns them into sentences.
"""

import numpy as np

from hippo_utils.miniworld.world import pick

# attribute -> article, name and preposition: "a complication of". A general attribute is "the {attribute} of".
NOUNS = {
    "class": ("the", "drug class", "of"), "mechanism": ("the", "mechanism", "of"), "indication": ("an", "indication", "for"),
    "adverse_effect": ("a", "typical adverse effect", "of"), "contraindication": ("a", "contraindication", "to"),
    "monitoring": ("a", "monitoring point", "for"), "antidote": ("an", "antidote", "to"), "cause": ("a", "cause", "of"),
    "hallmark": ("a", "hallmark", "of"), "first_test": ("a", "first test", "for"), "treatment": ("a", "treatment", "of"),
    "complication": ("a", "complication", "of"), "risk_factor": ("a", "risk factor", "for"),
}
# {e} is the entity, {v} the value, {n} the attribute with its article and preposition. About a third name the value
# first: a model that has read facts in one direction only cannot go from a finding to its disease.
ANY = ["{n} {e} is {v}", "{v} can be named as {n} {e}", "as {n} {e}, books name {v}"]
STATEMENTS = {
    "class": ["{e} falls into the class {v}", "the formulary lists {e} under {v}", "by its class, {e} goes with {v}",
              "under the class {v}, books name {e}", "with {v}, the formulary groups {e}"],
    "mechanism": ["{e} works through {v}", "{e} acts by way of {v}", "the action of {e} rests on {v}",
                  "through {v}, {e} has its effect", "by {v}, {e} does its work"],
    "indication": ["{e} is used for {v}", "doctors prescribe {e} for {v}", "{e} has a place in {v}",
                   "for {v}, {e} is a choice", "in {v}, {e} can be given"],
    "adverse_effect": ["{e} can cause {v}", "patients on {e} may develop {v}", "a known harm of {e} is {v}",
                       "with {v}, think of {e} as the culprit", "{v} can come from {e}"],
    "contraindication": ["{e} should not be given with {v}", "avoid {e} when there is {v}", "a reason against {e} is {v}",
                         "with {v}, {e} is not given", "in a patient with {v}, stay away from {e}"],
    "monitoring": ["during treatment with {e}, keep an eye on {v}", "treatment with {e} is guided by {v}", "monitoring of {e} relies on {v}",
                   "{v} should be followed under {e}", "by {v}, treatment with {e} is followed"],
    "antidote": ["too much {e} is treated with {v}", "an overdose of {e} calls for {v}", "harm from too much {e} is treated with {v}",
                 "{v} can help against the toxicity of {e}", "give {v} against too much {e}"],
    "cause": ["{e} can be caused by {v}", "{e} can arise from {v}", "behind {e} there is often {v}",
              "{v} can lead to {e}", "from {v}, {e} can arise"],
    "hallmark": ["{e} typically shows {v}", "patients with {e} often have {v}", "the picture of {e} includes {v}",
                 "{v} should bring {e} to mind", "with {v}, think of {e}", "the finding {v} points to {e}"],
    "first_test": ["suspected {e} calls for {v}", "when {e} is suspected, start with {v}", "the workup of {e} begins with {v}",
                   "{v} can confirm a suspicion of {e}", "order {v} when you suspect {e}"],
    "treatment": ["{e} is treated with {v}", "patients with {e} are managed with {v}", "the care of {e} includes {v}",
                  "{v} can help against {e}", "use {v} for {e}"],
    "complication": ["{e} can lead to {v}", "{e} may be complicated by {v}", "patients with {e} are at risk of {v}",
                     "{v} can follow {e}", "watch for {v} in {e}"],
    "risk_factor": ["the risk of {e} is raised by {v}", "{e} is more likely with {v}", "one risk for {e} is {v}",
                    "{v} can favour {e}", "with {v}, the risk of {e} grows"],
}
GENERAL = ["{e} has {v} as {n2}", "for {e}, {n3} is {v}", "{v} is what {e} has as {n2}", "people connect {e} with the {n2} {v}"]
QUESTIONS = {
    "class": ["Into which class does {e} fall?", "Under which class is {e} listed?"],
    "mechanism": ["How does {e} work?", "Through what does {e} act?"],
    "indication": ["What is {e} used for?", "For what is {e} prescribed?"],
    "adverse_effect": ["What can {e} cause?", "Which harm may {e} do?"],
    "contraindication": ["When should {e} be avoided?", "What speaks against {e}?"],
    "monitoring": ["What should be checked under {e}?", "What needs monitoring during treatment with {e}?"],
    "antidote": ["What counters too much {e}?", "What helps against the toxicity of {e}?"],
    "cause": ["What can cause {e}?", "From what can {e} arise?"],
    "hallmark": ["What does {e} typically show?", "Which finding points to {e}?"],
    "first_test": ["Which test comes first for {e}?", "With what does the workup of {e} begin?"],
    "treatment": ["How is {e} treated?", "What is given for {e}?"],
    "complication": ["What can {e} lead to?", "What may complicate {e}?"],
    "risk_factor": ["What raises the risk of {e}?", "What makes {e} more likely?"],
}
PATIENT_OPENERS = ["", "Hello doctor.", "I have a question.", "Please help me.", "I am worried.", "My family asks:", "Good morning."]
# Two-step questions: which attributes describe an unnamed entity, and which may be asked.
CLUES = {"disease": (("hallmark", "risk_factor"), ("hallmark", "cause")),
         "country": (("capital", "dish"), ("landmark", "currency")), "animal": (("call", "home"), ("call", "food")),
         "artist": (("best-known work", "homeland"), ("best-known work", "birthplace"))}
ASKED = {"disease": ("treatment", "complication", "first_test")}
CLUE_TEXTS = {
    "hallmark": ["A patient has {v}", "A patient comes with {v}", "The finding is {v}"],
    "risk_factor": ["; a risk factor is {v}.", "; noted as a risk: {v}."],
    "cause": ["; the cause is {v}.", "; behind it is {v}."],
}
# Who cannot be drawn at random in a patient summary; (lowest age, highest age, sexes) by a part of the entity's name.
PATIENTS = {
    "ectopic pregnancy": (20, 42, "f"), "hydatidiform mole": (18, 45, "f"), "sheehan": (22, 42, "f"), "oxytocin": (20, 42, "f"),
    "magnesium sulfate": (20, 42, "f"), "bupivacaine": (20, 42, "f"), "sildenafil": (30, 79, "m"), "spironolactone": (30, 79, "m"),
    "tamoxifen": (40, 79, "f"), "alendronate": (55, 79, "f"),
    "lesch-nyhan": (3, 15, "m"), "duchenne": (4, 14, "m"), "hemophilia": (5, 60, "m"), "chronic granulomatous": (2, 14, "m"),
    "alport": (8, 30, "m"), "favism": (3, 40, "m"), "croup": (1, 4, "fm"), "epiglottitis": (3, 8, "fm"), "hirschsprung": (1, 2, "fm"),
    "digeorge": (1, 10, "fm"), "retinoblastoma": (1, 4, "fm"), "von gierke": (1, 9, "fm"), "measles": (2, 12, "fm"),
    "rheumatic fever": (6, 15, "fm"), "xeroderma": (4, 15, "fm"), "cystic fibrosis": (2, 25, "m"), "friedreich": (10, 25, "fm"),
    "mononucleosis": (15, 24, "fm"), "burkitt": (5, 14, "fm"), "cooley": (2, 20, "fm"), "sickle cell": (5, 40, "fm"),
    "mediterranean fever": (8, 30, "fm"), "spherocytosis": (5, 40, "fm"), "kartagener": (5, 40, "m"), "wilson": (12, 35, "fm"),
    "narcolepsy": (16, 40, "fm"), "huntington": (35, 60, "fm"), "isotretinoin": (18, 35, "fm"), "mesothelioma": (55, 79, "fm"),
}


def noun(attribute: str, article: bool = True) -> str:
    """The attribute with its preposition: "a complication of", "the capital of"."""
    first, name, preposition = NOUNS.get(attribute, ("the", attribute, "of"))
    return f"{first} {name} {preposition}" if article else name


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def clause(rng: np.random.Generator, entity: str, attribute: str, value: str) -> str:
    """One fact in a wording drawn at random, in lower case and without a full stop."""
    medical = attribute in NOUNS
    template = pick(rng, ANY + (STATEMENTS[attribute] if medical else GENERAL))
    return template.format(e=entity, v=value, n=noun(attribute), n2=noun(attribute, False), n3="the " + noun(attribute, False))


def statement(rng: np.random.Generator, entity: str, attribute: str, value: str) -> str:
    return sentence(clause(rng, entity, attribute, value))


def question(rng: np.random.Generator, entity: str, attribute: str) -> str:
    first, name, preposition = NOUNS.get(attribute, ("the", attribute, "of"))
    anyway = [f"What is {first} {name} {preposition} {entity}?", f"Which is {first} {name} {preposition} {entity}?"]
    text = pick(rng, anyway + QUESTIONS.get(attribute, [])).format(e=entity)
    return text


def yes_no_question(rng: np.random.Generator, entity: str, attribute: str, value: str) -> str:
    return pick(rng, ["Is {n} {e} {v}?", "Does the text call {v} {n} {e}?"]).format(n=noun(attribute), e=entity, v=value)


def patient(rng: np.random.Generator, entity: str) -> tuple[str, str, str]:
    """Somebody who can have the disease or take the drug: ("A 54-year-old woman", "her", "she")."""
    low, high, sexes = next((limits for part, limits in PATIENTS.items() if part in entity.lower()), (21, 79, "fm"))
    age, sex = int(rng.integers(low, high + 1)), pick(rng, sexes)
    who = ("girl" if age < 16 else "woman", "her", "she") if sex == "f" else ("boy" if age < 16 else "man", "his", "he")
    return f"{'An' if age in (8, 11, 18) else 'A'} {age}-year-old {who[0]}", who[1], who[2]
