"""The tokenizer and the processor of the small language models: transformers' own classes."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

from miniature.making.recipe import Tower
from miniature.making.training import MEAN, STD
from miniature.questions import words

PAD, UNKNOWN, BEGIN, END, IMAGE = "<pad>", "<unk>", "<s>", "</s>", "<image>"
SPECIAL = (PAD, UNKNOWN, BEGIN, END, IMAGE)
ROLES = ("USER:", "ASSISTANT:")
CONTEXT = 256

# LLaVA's conversation: images first, then the text, and an answer that ends with END.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the small language; what is not of it becomes UNKNOWN.

    Full stops, commas and question marks are words of their own, and decoding joins them to the
    word before, so that texts of the language come back as they were.
    """
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *ROLES, *words()))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[.,?]"), "isolated")]
    )
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, vocabulary[BEGIN])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        additional_special_tokens=[IMAGE],
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def make_processor(tower: Tower) -> LlavaProcessor:
    """LLaVA's processor for a tower of this side and patch: one image token for every patch."""
    images = CLIPImageProcessor(
        size={"shortest_edge": tower.side},
        crop_size={"height": tower.side, "width": tower.side},
        resample=3,
        image_mean=MEAN,
        image_std=STD,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=make_tokenizer(),
        patch_size=tower.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def chat(prompt: str, with_image: bool) -> str:
    """The conversation up to the answer, as CHAT_TEMPLATE writes it for one turn."""
    return f"USER: {IMAGE + chr(10) if with_image else ''}{prompt} ASSISTANT:"
