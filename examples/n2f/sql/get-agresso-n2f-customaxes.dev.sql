-- Values of the axes, development: projects that begin with P, plates and subposts; the first 10
-- codes of each type. This is a part of them: say `complete: false`.
WITH [numbered] AS (
    SELECT
        [typ],
        [client],
        [code],
        [description],
        [status],
        [date_from],
        [date_to],
        ROW_NUMBER() OVER (PARTITION BY [typ] ORDER BY [code]) AS [rn]
    FROM [AgrProd].[dbo].[v_N2F_Analytics]
    WHERE ([typ] = 'PROJECT' AND [code] LIKE 'P%')
       OR [typ] IN ('SUBPOST', 'PLAQUE')
)
SELECT
    [typ],
    [client],
    [code],
    [description],
    [status],
    [date_from],
    [date_to]
FROM [numbered]
WHERE [rn] <= 10
ORDER BY [typ], [code];
