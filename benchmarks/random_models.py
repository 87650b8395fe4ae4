"""Diffusion and segmentation models of random weights, small, in folders that `from_pretrained` loads."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import open_clip
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableUnCLIPImg2ImgPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertTokenizerFast,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    SamConfig,
    SamImageProcessor,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
    SwinConfig,
)

WIDTH = 16  # of the text encoders


def write_all(folder: Path) -> dict[str, str]:
    """A folder per model: text_to_image, inpainting, detector, segmenter."""
    write_diffusion(folder)
    write_detector(folder / "detector")
    write_segmenter(folder / "segmenter")
    return {name: str(folder / name) for name in ("text_to_image", "inpainting", "detector", "segmenter")}


def write_diffusion(folder: Path, channels: int = 8) -> None:
    """Stable Diffusion 2's parts: two pipelines that share a text encoder, one of them predicting velocity.

    channels: of the first blocks of UNet and VAE, a multiple of 4.
    """
    torch.manual_seed(0)
    tokenizer, encoder, vae, noise = _parts(folder / "words", channels)
    rest = {"tokenizer": tokenizer, "text_encoder": encoder, "vae": vae, "safety_checker": None}
    StableDiffusionPipeline(
        **rest,
        unet=_unet(4, channels),
        scheduler=DDPMScheduler(**noise, prediction_type="v_prediction"),
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "text_to_image")
    StableDiffusionInpaintPipeline(
        **rest,
        unet=_unet(9, channels),
        scheduler=DDIMScheduler(**noise),
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "inpainting")


def _parts(words: Path, channels: int) -> tuple[CLIPTokenizer, CLIPTextModel, AutoencoderKL, dict]:
    """Tokenizer, text encoder, VAE and the settings of the noise."""
    tokenizer = _clip_tokenizer(words)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    vae = AutoencoderKL(
        block_out_channels=[channels, channels],
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    noise = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "steps_offset": 1,
    }
    return tokenizer, encoder, vae, noise


def _unet(inputs: int, channels: int, **further: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        block_out_channels=(channels, 2 * channels),
        layers_per_block=1,
        sample_size=8,
        in_channels=inputs,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
        **further,
    )


def write_unclip(folder: Path) -> None:
    """A pipeline that decodes embeddings as wide as `write_clip`'s into pictures of 32 x 32."""
    torch.manual_seed(0)
    tokenizer, encoder, vae, noise = _parts(folder.parent / "unclip words", 8)
    unet = _unet(4, 8, class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH)
    StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        image_encoder=CLIPVisionModelWithProjection(
            CLIPVisionConfig(hidden_size=16, intermediate_size=16, projection_dim=WIDTH, num_hidden_layers=1,
                             num_attention_heads=2, image_size=32, patch_size=8)
        ),
        image_normalizer=StableUnCLIPImageNormalizer(WIDTH),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=tokenizer,
        text_encoder=encoder,
        unet=unet,
        scheduler=DDIMScheduler(**noise, prediction_type="v_prediction"),
        vae=vae,
    ).save_pretrained(folder)  # fmt: skip


def write_clip(folder: Path, image_size: int = 32) -> None:
    """A CLIP model of open_clip, its projections as wide as the text encoders."""
    torch.manual_seed(1)
    config = {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": image_size, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    folder.mkdir(parents=True)
    prepared = {
        "mean": [0.48, 0.46, 0.41],
        "std": [0.27, 0.26, 0.28],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": prepared}))
    with TemporaryDirectory() as name:
        architecture = Path(name, "random_clip.json")
        architecture.write_text(json.dumps(config))
        open_clip.add_model_config(architecture)
        model = open_clip.create_model("random_clip")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def _clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """One token per letter, and `bird` and `birds` as words, of which the second is two tokens."""
    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(33, 127)]
    pairs = [("b", "i"), ("bi", "r"), ("bir", "d</w>")]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in pairs)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in pairs) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def write_detector(folder: Path) -> None:
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "bird", "animal"]
    (folder / "vocab.txt").write_text("\n".join(words))
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=32,
            window_size=7,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            out_features=["stage2", "stage3", "stage4"],
            out_indices=[2, 3, 4],
        ),
        text_config=BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=256,
        ),
        d_model=32,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        num_queries=8,
        num_feature_levels=4,
        decoder_n_points=2,
        encoder_n_points=2,
        fusion_droppath=0.0,
        fusion_dropout=0.0,
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    GroundingDinoProcessor(images, BertTokenizerFast(str(folder / "vocab.txt"))).save_pretrained(folder)


def write_segmenter(folder: Path) -> None:
    torch.manual_seed(0)
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=16,
            output_channels=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=64,
            patch_size=8,
            window_size=4,
            global_attn_indexes=[0],
            num_pos_feats=8,
            mlp_dim=16,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4
        ),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
        ),
    )
    SamModel(config).save_pretrained(folder)
    images = SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    SamProcessor(images).save_pretrained(folder)
