"""Networks that were trained on clips, one step at a time: conversion, batches of streams, exits in time."""
