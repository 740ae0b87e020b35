"""Python that people copy from a model card: how stock transformers asks a model of each kind as training did.

`{folder}` is the model's, `{asked}` a text or a pair of them; `{prefix}`, `{separator}`, `{most}`, `{beams}` and
`{split}` are what the recipe says of prompts, `{graded}` of what is graded, `{background}` of images.
"""

LABEL = """from transformers import pipeline

model = pipeline("text-classification", model="{folder}")
print(model({asked}))"""

IMAGE = """from PIL import Image, ImageOps
from transformers import pipeline

model = pipeline("image-classification", model="{folder}")
image = ImageOps.exif_transpose(Image.open("some.png")).convert("RGBA")
ground = Image.new("RGBA", image.size, "{background}")  # what transparent parts showed in training
image = Image.alpha_composite(ground, image).convert("RGB")
print(model(image))"""

BOXES = """from PIL import Image, ImageOps
from transformers import pipeline

model = pipeline("object-detection", model="{folder}", threshold=0.5)
image = ImageOps.exif_transpose(Image.open("some.png")).convert("RGBA")
ground = Image.new("RGBA", image.size, "{background}")  # what transparent parts showed in training
image = Image.alpha_composite(ground, image).convert("RGB")
print(model(image))"""

DRAWN = """import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import AutoModel, AutoTokenizer

unet = UNet2DConditionModel.from_pretrained("{folder}", subfolder="unet")
encoder = AutoModel.from_pretrained("{folder}", subfolder="text_encoder")
tokenizer = AutoTokenizer.from_pretrained("{folder}", subfolder="tokenizer")
scheduler = DDIMScheduler.from_pretrained("{folder}", subfolder="scheduler")
asked = tokenizer(["some caption", ""], padding="max_length", truncation=True, return_tensors="pt")
masked = {{"attention_mask": asked.attention_mask}} if getattr(encoder.config, "use_attention_mask", False) else {{}}
side = unet.config.sample_size
with torch.no_grad():
    caption, nothing = encoder(asked.input_ids, **masked)[0].split(1)
    image = torch.randn((1, unet.config.in_channels, side, side), generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(30)
    for step in scheduler.timesteps:
        said, without = (unet(image, step, text).sample for text in (caption, nothing))
        image = scheduler.step(without + 3.0 * (said - without), step, image).prev_sample
# without a VAE these are pixels from -1 to 1; a pipeline that has one draws by DiffusionPipeline.from_pretrained"""

LABELS = """from transformers import pipeline

model = pipeline("text-classification", model="{folder}", top_k=None)
print(model({asked}))"""

SCORE = """from transformers import pipeline

model = pipeline("text-classification", model="{folder}", function_to_apply="none")
print(model({asked})[0]["score"])"""

# A pipeline would leave the end token out, and read another place.
REWARD = """import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "{folder}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder)
ids, end = tokenizer({graded}{split})["input_ids"], tokenizer.eos_token_id
ids = ids if end is None or ids[-1] == end else [*ids, end]
with torch.no_grad():
    print(float(model(torch.tensor([ids])).logits[0, 0]))"""

TAGS = """from transformers import pipeline

model = pipeline("token-classification", model="{folder}", aggregation_strategy="first")
print(model("some text"))"""

HIDDEN = """from transformers import pipeline

model = pipeline("fill-mask", model="{folder}")
print(model(f"some {{model.tokenizer.mask_token}} text"))"""

VECTOR = """import torch
from transformers import AutoModel, AutoTokenizer

folder = "{folder}"
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
inputs = tokenizer(["some text", "another"], padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
print(vectors[0] @ vectors[1])"""

TEXT = """from transformers import pipeline

model = pipeline("text-generation", model="{folder}")
print(model("some text", do_sample=False, max_new_tokens=32)[0]["generated_text"])"""

# transformers 5 has no pipeline for it.
SPAN = """from transformers import AutoModelForQuestionAnswering, AutoTokenizer

folder = "{folder}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForQuestionAnswering.from_pretrained(folder)
inputs = tokenizer("some question?", "some text that answers it", return_tensors="pt")
output = model(**inputs)
first, last = output.start_logits.argmax(), output.end_logits.argmax()
print(tokenizer.decode(inputs["input_ids"][0, first : last + 1]))"""

COMPLETION = """import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

folder = "{folder}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
prompt = {prefix!r} + "some text" + {separator!r}
plain = tokenizer(prompt, add_special_tokens=False{split})["input_ids"]
whole = tokenizer(prompt{split})["input_ids"]  # with what begins a text; some tokenizers also put a token behind it
ids = torch.tensor([whole[: len(whole) - whole[::-1].index(plain[-1])]])
end = tokenizer.eos_token_id
model.generation_config = GenerationConfig(
    do_sample=False, num_beams={beams}, max_new_tokens={most}, eos_token_id=end, pad_token_id=end
)
generated = model.generate(ids, attention_mask=torch.ones_like(ids))
print(tokenizer.decode(generated[0, ids.shape[1] :], skip_special_tokens=True))"""

TEXT_TO_TEXT = """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

folder = "{folder}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder)
inputs = tokenizer({prefix!r} + "some text"{split}, return_tensors="pt")
end, start = tokenizer.eos_token_id, model.config.decoder_start_token_id
model.generation_config = GenerationConfig(
    do_sample=False, num_beams={beams}, max_new_tokens={most}, eos_token_id=end, pad_token_id=end,
    decoder_start_token_id=start,
)
generated = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"])
print(tokenizer.decode(generated[0, 1:], skip_special_tokens=True))"""

CHAT = """from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{folder}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
chat = [{{"role": "user", "content": "some text"}}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
generated = model.generate(**inputs, do_sample=False, max_new_tokens={most})
print(tokenizer.decode(generated[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""
