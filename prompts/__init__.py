"""Prompt texts: one file each, rendered strictly, known by the digest of the file."""

from prompts.library import Prompt, data_block, load_prompt, prompt_names

__all__ = ["Prompt", "data_block", "load_prompt", "prompt_names"]
