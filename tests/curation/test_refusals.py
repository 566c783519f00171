from __future__ import annotations

import pytest

from curation.refusals import looks_like_refusal

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I can’t assist with that request.",
    "I'm really sorry, but I cannot assist with identifying people in images.",
    "Sorry, I can't do that.",
    "Sorry — I can't help you with this one.",
    "I'm afraid I can't do that.",
    "I apologize, but I cannot comply with this request.",
    "I apologize for any inconvenience, but I am unable to assist with this.",
    "Unfortunately, I am not able to help with that.",
    "My apologies, but I cannot fulfill this request as it goes against my guidelines.",
    "I cannot help.",
    "I can't help identify who this is.",
    "I must respectfully decline to describe this image.",
    "I'm unable to process this request.",
    "I am unable to process images.",
    "As an AI language model, I cannot view images.",
    "As a large language model, I don't have the ability to see pictures.",
    "As a text-based AI assistant, I'm not capable of looking at photographs.",
    "I'm sorry, but I can't identify people in images.",
    "I can't identify real people, but I can describe what they are wearing if you like.",
    "I'm not able to provide a description of this image.",
    "I cannot provide information about the individual shown.",
    "I can't see the image you're referring to. Could you share it again?",
    "I'm sorry, I can't view images. However, if you describe it, I can help.",
    "I don't see an image attached to your message.",
    "It seems there is no image attached.",
    "No image was provided.",
    "Please upload the image so that I can describe it.",
    "You haven't uploaded an image.",
    "I won't be able to answer that.",
    "I do not feel comfortable describing this image.",
    "Your request violates our usage policies.",
    "**I'm sorry, but I can't help with that.**",
    '"I cannot assist with that."',
    "抱歉，我无法协助处理这个请求。",
    "很抱歉，我不能识别图中的人物。",
    "作为一个人工智能语言模型，我无法查看图片。",
]

ANSWERS = [
    "",
    "A red mug stands on a table.",
    "I cannot see a dog in the picture, but there is a cat on the sofa.",
    "I can't see any people in this photo.",
    "I cannot see the image clearly, but it shows a brown dog on a lawn.",
    "I can't identify the exact breed, but the dog is brown and white.",
    "I can't identify the person by name, but he wears a blue shirt and sits on a bench.",
    "I cannot help but notice the red car in the foreground.",
    "I can't tell whether the door is open.",
    "I'm not sure what the object on the left is; it may be a vase.",
    "Sorry, the sign is hard to read: it says 'STOP'.",
    "Unfortunately, the left edge of the picture is blurred. A man stands in the middle.",
    "There is no image on the screen of the television.",
    "There is no picture on the wall.",
    "No, there is no dog in the image.",
    "No people are visible. The image shows an empty street.",
    "No picture hangs above the bed.",
    "A man holds a sign that reads \"I'm sorry, but I can't help with that.\"",
    "The text on the poster says: As an AI language model, I cannot dream.",
    "The requested page cannot be displayed, says the screen of the laptop.",
    "As an assistant hands over the tools, I see the surgeon look down.",
    "This request form lies on a wooden desk next to a pen.",
    "Please mind the gap is written on the platform.",
    "照片中有一只红色的杯子，我无法看清左边的物体。",
    "I can't describe the person's face, because it is turned away. " + "A detail follows. " * 30,
]


@pytest.mark.parametrize("text", REFUSALS)
def test_real_refusals_are_seen(text: str) -> None:
    assert looks_like_refusal(text)
    assert looks_like_refusal("\n " + text.upper().replace(" ", "  "))


@pytest.mark.parametrize("text", ANSWERS)
def test_false_friends_are_not(text: str) -> None:
    assert not looks_like_refusal(text)


def test_a_partial_refusal_with_a_long_description_is_an_answer() -> None:
    short = "I can't identify the person in this photo."
    assert looks_like_refusal(short)
    assert not looks_like_refusal(short + " The picture shows a bench under a tree." * 8)


def test_an_offer_is_not_an_answer_but_a_description_is() -> None:
    declined = "I'm sorry, but I can't see the picture"
    assert looks_like_refusal(f"{declined}, but I can tell a story instead.")
    assert not looks_like_refusal(f"{declined} well; however, a cat is visible.")
