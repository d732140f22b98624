"""A world small enough to be learned in minutes: facts as tables, and the text and exams written from them."""
