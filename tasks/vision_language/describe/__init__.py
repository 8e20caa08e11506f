"""Asks a vision-language model a question over many images, in this process: questions, answers, grades, table."""
