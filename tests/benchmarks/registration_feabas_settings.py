"""How FEABAS is set: the defaults of its `default_*_configs.yaml` (3.0.6), but for what follows.

- one worker and as many threads as asked for; images 4 nm, sections 30 nm (its defaults);
- stitched and aligned images are PNG tiles of 1024 px: with 4096, padding costs more time than the images;
- tiles go through matching, optimisation and rendering;
- a stack of single images starts at the thumbnails (its documented way for such stacks): the images are the
  thumbnails, at mip 0, which keeps them in the 500 to 4000 px that it asks for, with empty material masks;
  then matching at mip 0 on a mesh of 80 px with spacings of 150 and 60 px (the defaults, for sections of
  tens of thousands of pixels, put hardly a point into one of 850), optimisation and rendering.
"""

MATCH_TILES = {
    "num_workers": 1,
    "min_overlap_width": 25,
    "maskout_val": None,
    "margin": 100,
    "num_overlaps_per_job": 180,
    "loader_config": {"cache_size": 150},
    "matcher_config": {
        "spacings": None,
        "conf_thresh": 0.33,
        "residue_mode": "threshold",
        "pad": True,
        "sigma": 2.5,
        "coarse_downsample": 0.5,
        "fine_downsample": 1.0,
    },
}
MESH_TILES = {"cache_size": None, "border_width": None, "soft_top": 0.2, "soft_top_width": 0.0}
MESH_SIZES = [75, 150, 300]
TRANSLATION = {"maxiter": None, "tol": 1e-7, "residue_threshold": 0.5}
GROUP = {
    "maxiter": None,
    "tol": 1e-6,
    "residue_mode": "threshold",
    "residue_len": 5,
    "continue_on_flip": True,
}
ELASTIC = {
    "maxiter": None,
    "tol": 1e-4,
    "residue_mode": "huber",
    "residue_len": 5,
    "batch_num_matches": None,
    "callback_settings": {"timeout": None, "early_stop_thresh": 1, "chances": 20, "eval_step": 10},
    "continue_on_flip": True,
}
DRAW_TILES = {
    "driver": "image",
    "num_workers": 1,
    "tile_size": [1024, 1024],
    "pad_to_tile_size": False,
    "render_settings": {"blend": "PYRAMID"},
    "filename_settings": {"pattern": "_tr{ROW_IND}-tc{COL_IND}.png", "one_based": True},
}
LOAD_TILES = {
    "cache_size": 150,
    "apply_CLAHE": True,
    "CLAHE_cliplimit": 2.0,
    "inverse": True,
    "fillval": 0,
    "dtype": None,
}

COMPARE_DISTANCE = 2
FEATURES = {
    "affine_only": True,
    "scale": 1.0,
    "detect_settings": {"sigma": 3.5, "min_spacing": 10, "num_features": 5000},
    "extract_settings": {"proj_num": 6, "beam_num": 8, "beam_wd": 3, "beam_radius": 15},
    "matching_settings": {"exhaustive": True},
    "strain_filter_settings": {
        "strain_limit": 0.2,
        "shear_limit": 45,
        "sample_ratio": 0.05,
        "inlier_thresh": 0.5,
    },
    "ransac_filter_settings": {"maxiter": 10000, "dis_tol": 4},
}
BLOCKS = {
    "sigma": 3.5,
    "scale": 1.0,
    "conf_thresh": 0.35,
    "pad": True,
    "spacings": [150, 50],
    "shrink_factor": 1,
    "distributor": "intersect_triangulation",
    "residue_mode": "huber",
    "residue_len": -3,
    "min_boundary_distance": 20,
}
MESH_PX = 80
MESHING = {"min_mesh_angle": 20, "simplify_tol": 2, "area_thresh": 25}
MATCH_SECTIONS = {
    "working_mip_level": 0,
    "matcher_config": {
        "num_workers": 1,
        "batch_size": 100,
        "conf_thresh": 0.35,
        "sigma": 3.5,
        "geodesic_mask": False,
        "pad": True,
        "distributor": "cartesian_region",
        "spacings": [150, 60],
        "shrink_factor": 0.7,
        "residue_mode": "huber",
        "residue_len": -2,
        "min_boundary_distance": 20,
        "stiffness_multiplier_threshold": 0.1,
        "render_weight_threshold": 0.1,
    },
}
WINDOW = {
    "start_loc": "M",
    "window_size": 64,
    "buffer_size": 16,
    "residue_mode": "huber",
    "residue_len": -3,
    "elastic_params": {
        "tol": 1e-7,
        "atol": 0.001,
        "batch_num_matches": None,
        "callback_settings": {"timeout": None, "early_stop_thresh": None, "chances": None, "eval_step": 10},
    },
}
