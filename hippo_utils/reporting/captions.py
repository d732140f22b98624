"""The title of every figure, in one place. Editing one redraws figures and runs nothing."""

TITLES = {
    "corpus": "What the corpus holds: tokens per source, before mixing",
    "study": "The settings of a study side by side, zero-shot",
    "pretraining": "Training the base and continued pre-training (CP)",
    "instruction": "Instruction tuning (SFT) from the base and from CP",
    "judge": "The judge's habits: places, lengths, winners",
    "judge_noise": "How good must a judge be?",
    "preference": "Preference optimisation (DPO)",
    "timeline": "MedQA, five-shot, over time (published values; paper, figure 1)",
    "stages": "What each stage adds, zero-shot",
    "prompting": "The same model, prompted differently",
    "scoring": "The same model on the same items, scored differently",
    "uncertainty": "Probability given to the prediction (the form of Hippocrates' figure 3)",
    "reliability": "How often the model is right when it says so",
    "risk_coverage": "Errors left when the model may abstain",
    "subjects": "Confidence and accuracy by subject",
    "path": "The path of the model: accuracy and calibration error after each stage",
    "protocols": "The same models, scored differently",
    "crossfilter": "Generated rows, scored by the other model and by their own",
    "generators": "Training the base and the two generators",
    "filters": "What the filter and what the stages of training are worth (AneCQ)",
    "answers": "Free answers against their references",
}
MINI_MARK = "mini run · synthetic exams · not comparable with the paper · not for clinical use"
SMALL_MARK = "smaller base and less data than the paper's · not comparable with it · not for clinical use"
PAPER_MARK = "not for clinical use"
PUBLISHED = {"timeline"}  # figures that show nothing but the paper's numbers
PUBLISHED_MARK = "published values of arXiv 2404.16621; nothing here was measured by this project · not for clinical use"

TABLES = {  # what each table says, for the page
    "corpus": "What the corpus holds: rows and tokens per source, before mixing", "contamination": "Overlap of the training texts with the exams (\"flagged at\" counts every match, also of removed texts and short questions; \"flagged\" what counts)",
    "leaks": "Which source leaks which benchmark", "licences": "Licences of the sources", "cleaning": "What each cleaning rule changed and dropped",
    "accounts": "Where every row went", "beside_the_paper": "The corpus beside the paper's figures",
    "pretraining": "Perplexity on texts held aside", "instructions": "The instruction mixture", "judge": "What the judge decided",
    "preferences": "Preference accuracy before and after DPO", "benchmarks": "The exams", "main": "Accuracy of every model under every protocol",
    "published_main": "Published: main results", "published_stages": "Published: what each stage adds", "stages": "What each stage adds",
    "pooled": "What each stage adds, items pooled over benchmarks", "paired": "Differences between models on identical items",
    "control": "Control facts, which no training text holds", "prompting": "The same model, prompted differently", "claims": "Claims with their bars",
    "scoring": "The same model on the same items, scored differently", "unread": "Written replies that name no option", "quarantine": "Items set aside as unanswerable",
    "detectable": "What so many items can show", "clean": "Clean items and items flagged by the contamination audit, apart", "baselines": "Further models",
    "ledger": "Every published number, and what this run may say of it", "statements": "What the paper says in words", "arithmetic": "The paper's own arithmetic",
    "uncertainty": "Probability given to the prediction", "calibration": "Calibration errors", "recalibration": "After temperature scaling",
    "uncertainty_statements": "What the paper says about uncertainty", "conformal": "Conformal sets: coverage and size", "subjects": "Calibration by subject",
    "groups": "Calibration by group of facts", "scoring": "One model, the same items, many protocols", "unread": "Replies that name no option",
    "generators": "The generators: what each has read, and answers right", "generated": "Where every generated reply went",
    "crossfilter": "Each generator's rows under each judge", "arms": "What each filter keeps: right rows, and the facts they tell",
    "tuning": "The models of the two stages, and their validation loss",
    "categories": "AneCQ by category, scored by sums and per byte", "answers": "Free answers against their references",
    "answers_judged": "Free answers compared in both orders", "answers_scored": "Free answers scored one by one", "answers_raters": "Agreement of clinicians on free answers",
    "answers_rated": "What clinicians said of each model's answers", "safety": "Refusal of harmful requests and of harmless look-alikes",
    "filters": "Cross-filtered rows against random, same-model filtered and unfiltered ones", "curriculum": "General medicine first, then anesthesiology, against other orders",
    "published_hypnos": "Published: what is known of Hypnos",
    "quarantine": "Items set aside", "baselines": "Further models", "detectable": "The smallest difference that can be shown", "clean": "Clean and flagged items apart",
}
