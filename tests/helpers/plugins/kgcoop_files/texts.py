CUSTOM_TEMPLATES = {"EuroSAT": "a centered satellite photo of {}."}
